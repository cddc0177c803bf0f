package api

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"time"
)

// state is what outlives a restart of the server.
type state struct {
	Clients map[string]*client
	// Tokens are access tokens, by their secret.
	Tokens map[string]*token
	Keys   map[string]*AuthKey
	// Secrets are all secrets that the server ever made.
	Secrets []string
	// Devices counts the devices of the tailnet, so that none has the ID of an earlier one.
	Devices int
}

// client is an OAuth client, or a federated identity if it has an issuer.
type client struct {
	ID, Secret, Description   string
	Scopes, Tags              []string
	Issuer, Subject, Audience string
	CustomClaimRules          map[string]string
	Created, Updated, Revoked time.Time
}

// token is an access token of a client or a user. Later changes of the client do not change its scopes.
type token struct {
	ID, Client, User string
	Scopes, Tags     []string
	Created, Expires time.Time
}

// AuthKey is a key that lets devices join the tailnet.
type AuthKey struct {
	ID, Secret, Description string
	// User is the login name of the owner. Client is the ID of the OAuth client that made the key;
	// the tailnet owns such a key.
	User, Client                       string
	Tags                               []string
	Reusable, Ephemeral, Preauthorized bool
	Created, Expires, Revoked          time.Time
	// Devices are the node IDs of the devices that have joined with the key.
	Devices []string
}

func (s *Server) load() error {
	s.state = state{
		Clients: map[string]*client{},
		Tokens:  map[string]*token{},
		Keys:    map[string]*AuthKey{},
	}
	if s.file == "" {
		return nil
	}
	data, err := os.ReadFile(s.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	return json.Unmarshal(data, &s.state)
}

// save writes the state. The caller holds s.mu.
func (s *Server) save() error {
	if s.file == "" {
		return nil
	}
	data, err := json.Marshal(&s.state)
	if err != nil {
		return err
	}
	staging := s.file + ".new"
	if err := os.WriteFile(staging, data, 0o600); err != nil {
		return err
	}
	return os.Rename(staging, s.file)
}

// NextDevice returns a number that no device has had.
func (s *Server) NextDevice() (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.Devices++
	return s.state.Devices, s.save()
}
