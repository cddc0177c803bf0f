package api

import (
	"net/http"
	"net/url"
	"slices"
	"time"
)

// Types of keys: an auth key, an OAuth client, and a federated identity.
const (
	typeAuth      = "auth"
	typeClient    = "client"
	typeFederated = "federated"
)

// clientFields are the fields of an OAuth client or a federated identity in a request.
type clientFields struct {
	KeyType          string            `json:"keyType"`
	Description      string            `json:"description"`
	Scopes           []string          `json:"scopes"`
	Tags             []string          `json:"tags"`
	Issuer           string            `json:"issuer"`
	Subject          string            `json:"subject"`
	Audience         string            `json:"audience"`
	CustomClaimRules map[string]string `json:"customClaimRules"`
}

func scopeOf(keyType string) string {
	switch keyType {
	case typeClient:
		return scopeOAuthKeys
	case typeFederated:
		return scopeFederatedKeys
	}
	return scopeAuthKeys
}

func (s *Server) createClient(w http.ResponseWriter, a actor, fields clientFields) error {
	if !a.may(scopeOf(fields.KeyType)) {
		return forbidden
	}
	added := &client{ID: newID(), Created: s.now()}
	if fields.KeyType == typeClient {
		added.Secret = newSecret(typeClient, added.ID)
	}
	if err := s.fill(added, a, fields); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.Clients[added.ID] = added
	if added.Secret != "" {
		s.state.Secrets = append(s.state.Secrets, added.Secret)
	}
	if err := s.save(); err != nil {
		return err
	}
	shown := showClient(added)
	shown.Key = added.Secret
	writeJSON(w, http.StatusOK, shown)
	return nil
}

// fill takes the fields of a request over into a client, if they are valid.
func (s *Server) fill(changed *client, a actor, fields clientFields) error {
	if err := checkDescription(fields.Description); err != nil {
		return err
	}
	if len(fields.Scopes) == 0 {
		return badRequest("scopes must be set")
	}
	for _, scope := range fields.Scopes {
		if !a.may(scope) {
			return forbidden
		}
	}
	needsTags := slices.Contains(fields.Scopes, scopeDevices) || slices.Contains(fields.Scopes, scopeAuthKeys)
	if needsTags && len(fields.Tags) == 0 {
		return badRequest("tags must be set for the scopes %s and %s", scopeDevices, scopeAuthKeys)
	}
	if err := s.checkDeviceTags(a, fields.Tags); err != nil {
		return err
	}
	if fields.KeyType == typeFederated {
		issuer, err := url.Parse(fields.Issuer)
		if err != nil || issuer.Scheme != "https" || issuer.Host == "" {
			return badRequest("issuer must be an https URL")
		}
		if fields.Subject == "" {
			return badRequest("subject must be set")
		}
		changed.Issuer, changed.Subject = fields.Issuer, fields.Subject
		changed.Audience, changed.CustomClaimRules = fields.Audience, fields.CustomClaimRules
		if changed.Audience == "" {
			changed.Audience = "api.tailscale.com/" + changed.ID
		}
	}
	changed.Description = fields.Description
	changed.Scopes, changed.Tags = slices.Clone(fields.Scopes), slices.Clone(fields.Tags)
	return nil
}

// setClient serves PUT: it replaces the fields of a client. Tokens that were issued keep theirs.
func (s *Server) setClient(w http.ResponseWriter, r *http.Request, a actor) error {
	var fields clientFields
	if err := readJSON(r, &fields); err != nil {
		return err
	}
	changed, found := s.findClient(r.PathValue("id"))
	if !found || changed.keyType() != fields.KeyType {
		return notFound
	}
	if !a.may(scopeOf(fields.KeyType)) {
		return forbidden
	}
	if err := s.fill(&changed, a, fields); err != nil {
		return err
	}
	changed.Updated = s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.Clients[changed.ID] = &changed
	if err := s.save(); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, showClient(&changed))
	return nil
}

// findClient returns a copy of the client with this ID that is not revoked.
func (s *Server) findClient(id string) (client, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := s.state.Clients[id]
	if found == nil || !found.Revoked.IsZero() {
		return client{}, false
	}
	return *found, true
}

func (c *client) keyType() string {
	if c.Issuer != "" {
		return typeFederated
	}
	return typeClient
}

func showClient(c *client) keyAnswer {
	return keyAnswer{
		ID:               c.ID,
		KeyType:          c.keyType(),
		Description:      c.Description,
		Created:          c.Created,
		Updated:          optional(c.Updated),
		Revoked:          optional(c.Revoked),
		Invalid:          !c.Revoked.IsZero(),
		Scopes:           c.Scopes,
		Tags:             c.Tags,
		Issuer:           c.Issuer,
		Subject:          c.Subject,
		Audience:         c.Audience,
		CustomClaimRules: c.CustomClaimRules,
	}
}

func optional(at time.Time) *time.Time {
	if at.IsZero() {
		return nil
	}
	return &at
}
