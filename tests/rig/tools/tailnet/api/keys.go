package api

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

// longestExpiry is the default and the longest lifetime of an auth key.
const longestExpiry = 90 * 24 * time.Hour

var validDescription = regexp.MustCompile(`^[A-Za-z0-9 -]{0,50}$`)

// keyAnswer is a key, OAuth client or federated identity in an answer.
type keyAnswer struct {
	ID               string            `json:"id"`
	KeyType          string            `json:"keyType"`
	Key              string            `json:"key,omitempty"`
	Description      string            `json:"description"`
	ExpirySeconds    int64             `json:"expirySeconds,omitempty"`
	Created          time.Time         `json:"created"`
	Updated          *time.Time        `json:"updated,omitempty"`
	Expires          *time.Time        `json:"expires,omitempty"`
	Revoked          *time.Time        `json:"revoked,omitempty"`
	Invalid          bool              `json:"invalid,omitempty"`
	Capabilities     *capabilities     `json:"capabilities,omitempty"`
	UserID           string            `json:"userId,omitempty"`
	Scopes           []string          `json:"scopes,omitempty"`
	Tags             []string          `json:"tags,omitempty"`
	Issuer           string            `json:"issuer,omitempty"`
	Subject          string            `json:"subject,omitempty"`
	Audience         string            `json:"audience,omitempty"`
	CustomClaimRules map[string]string `json:"customClaimRules,omitempty"`
}

type capabilities struct {
	Devices struct {
		Create creation `json:"create"`
	} `json:"devices"`
}

// creation says how devices join with a key.
type creation struct {
	Reusable      bool     `json:"reusable"`
	Ephemeral     bool     `json:"ephemeral"`
	Preauthorized bool     `json:"preauthorized"`
	Tags          []string `json:"tags"`
}

func (s *Server) keyRoutes() {
	s.route("POST /api/v2/tailnet/{tailnet}/keys", nil, s.createKey)
	s.route("GET /api/v2/tailnet/{tailnet}/keys", nil, s.listKeys)
	s.route("GET /api/v2/tailnet/{tailnet}/keys/{id}", nil, s.getKey)
	s.route("PUT /api/v2/tailnet/{tailnet}/keys/{id}", nil, s.setClient)
	s.route("DELETE /api/v2/tailnet/{tailnet}/keys/{id}", nil, s.deleteKey)
}

func checkDescription(text string) error {
	if !validDescription.MatchString(text) {
		return badRequest("keys: description had invalid characters")
	}
	return nil
}

func (s *Server) createKey(w http.ResponseWriter, r *http.Request, a actor) error {
	var request struct {
		clientFields
		Capabilities  capabilities `json:"capabilities"`
		ExpirySeconds int64        `json:"expirySeconds"`
	}
	if err := readJSON(r, &request); err != nil {
		return err
	}
	switch request.KeyType {
	case "", typeAuth:
	case typeClient, typeFederated:
		return s.createClient(w, a, request.clientFields)
	default:
		return badRequest("unknown key type %q", request.KeyType)
	}
	if !a.may(scopeAuthKeys) {
		return forbidden
	}
	if err := checkDescription(request.Description); err != nil {
		return err
	}
	lifetime := time.Duration(request.ExpirySeconds) * time.Second
	if lifetime == 0 {
		lifetime = longestExpiry
	}
	if lifetime < 0 || lifetime > longestExpiry {
		return badRequest("keys: expirySeconds must be between 1 and %d", int(longestExpiry.Seconds()))
	}
	create := request.Capabilities.Devices.Create
	if err := s.checkKeyTags(a, create.Tags); err != nil {
		return err
	}
	now := s.now()
	key := &AuthKey{
		ID:            newID(),
		Description:   request.Description,
		User:          a.user,
		Client:        a.client,
		Tags:          create.Tags,
		Reusable:      create.Reusable,
		Ephemeral:     create.Ephemeral,
		Preauthorized: create.Preauthorized,
		Created:       now,
		Expires:       now.Add(lifetime),
	}
	key.Secret = newSecret(typeAuth, key.ID)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.Keys[key.ID] = key
	s.state.Secrets = append(s.state.Secrets, key.Secret)
	if err := s.save(); err != nil {
		return err
	}
	shown := s.showKey(key)
	shown.Key = key.Secret
	writeJSON(w, http.StatusOK, shown)
	return nil
}

// listKeys returns keys that are valid. Without all=true, a user gets their own auth keys, and an OAuth
// client gets OAuth clients.
func (s *Server) listKeys(w http.ResponseWriter, r *http.Request, a actor) error {
	all := r.FormValue("all") == "true"
	mayKeys := a.may(read(scopeAuthKeys))
	if !mayKeys && !a.may(read(scopeOAuthKeys)) && !a.may(read(scopeFederatedKeys)) {
		return forbidden
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	shown := []keyAnswer{}
	for _, key := range s.state.Keys {
		listed := all || a.user != "" && a.user == key.User
		if mayKeys && listed && s.reason(key) == "" {
			shown = append(shown, s.showKey(key))
		}
	}
	for _, client := range s.state.Clients {
		listed := all || a.user == ""
		if listed && client.Revoked.IsZero() && a.may(read(scopeOf(client.keyType()))) {
			shown = append(shown, showClient(client))
		}
	}
	slices.SortFunc(shown, func(a, b keyAnswer) int { return strings.Compare(a.ID, b.ID) })
	writeJSON(w, http.StatusOK, map[string]any{"keys": shown})
	return nil
}

func (s *Server) getKey(w http.ResponseWriter, r *http.Request, a actor) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := r.PathValue("id")
	if key := s.state.Keys[id]; key != nil {
		if !a.may(read(scopeAuthKeys)) {
			return forbidden
		}
		writeJSON(w, http.StatusOK, s.showKey(key))
		return nil
	}
	client := s.state.Clients[id]
	if client == nil {
		return notFound
	}
	if !a.may(read(scopeOf(client.keyType()))) {
		return forbidden
	}
	writeJSON(w, http.StatusOK, showClient(client))
	return nil
}

// deleteKey revokes a key or a client. Access tokens of the client end with it.
func (s *Server) deleteKey(w http.ResponseWriter, r *http.Request, a actor) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	key, client := s.state.Keys[r.PathValue("id")], s.state.Clients[r.PathValue("id")]
	switch {
	case key != nil && !a.may(scopeAuthKeys), client != nil && !a.may(scopeOf(client.keyType())):
		return forbidden
	case key != nil && key.Revoked.IsZero():
		key.Revoked = s.now()
	case client != nil && client.Revoked.IsZero():
		client.Revoked = s.now()
		for secret, token := range s.state.Tokens {
			if token.Client == client.ID {
				delete(s.state.Tokens, secret)
			}
		}
	default:
		return notFound
	}
	if err := s.save(); err != nil {
		return err
	}
	return ok(w)
}

func (s *Server) showKey(key *AuthKey) keyAnswer {
	shown := keyAnswer{
		ID:            key.ID,
		KeyType:       typeAuth,
		Description:   key.Description,
		ExpirySeconds: int64(key.Expires.Sub(key.Created).Seconds()),
		Created:       key.Created,
		Expires:       optional(key.Expires),
		Revoked:       optional(key.Revoked),
		Invalid:       s.reason(key) != "",
		UserID:        key.User,
		Tags:          key.Tags,
		Capabilities:  new(capabilities),
	}
	shown.Capabilities.Devices.Create = creation{
		Reusable:      key.Reusable,
		Ephemeral:     key.Ephemeral,
		Preauthorized: key.Preauthorized,
		Tags:          key.Tags,
	}
	return shown
}

// reason says why a device cannot join with a key; it is empty if it can.
func (s *Server) reason(key *AuthKey) string {
	switch {
	case !key.Revoked.IsZero():
		return "invalid key: API key does not exist"
	case !s.now().Before(key.Expires), !key.Reusable && len(key.Devices) > 0:
		return fmt.Sprintf("invalid key: API key %s not valid", key.ID)
	}
	return ""
}

// FindKey returns a copy of the auth key with this secret, or the reason why no device can join with it.
func (s *Server) FindKey(secret string) (AuthKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range s.state.Keys {
		if key.Secret != secret {
			continue
		}
		if reason := s.reason(key); reason != "" {
			return AuthKey{}, fmt.Errorf("%s", reason)
		}
		return *key, nil
	}
	return AuthKey{}, fmt.Errorf("invalid key: API key does not exist")
}

// UseKey records that a device has joined with the auth key that has this ID.
func (s *Server) UseKey(id, nodeID string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := s.state.Keys[id]
	key.Devices = append(key.Devices, nodeID)
	return s.save()
}
