package api

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// tokenLifetime is the lifetime of an access token of an OAuth client.
const tokenLifetime = time.Hour

// issueToken serves the client credentials grant.
func (s *Server) issueToken(w http.ResponseWriter, r *http.Request) error {
	_, secret, isBasic := r.BasicAuth()
	if isBasic {
		// RFC 6749, section 2.3.1: it is escaped as in a form.
		secret, _ = url.QueryUnescape(secret)
	} else {
		secret = r.PostFormValue("client_secret")
	}
	if grant := r.PostFormValue("grant_type"); grant != "" && grant != "client_credentials" {
		return badRequest("unsupported grant type %q", grant)
	}
	client, found := s.findClient(clientID(secret))
	if !found || client.Secret != secret {
		return invalidToken
	}
	scopes, err := requestedScopes(client.Scopes, r.PostFormValue("scope"))
	if err != nil {
		return err
	}
	tags, err := s.requestedTags(client, scopes, strings.Fields(r.PostFormValue("tags")))
	if err != nil {
		return err
	}
	return s.grantToken(w, client.ID, scopes, tags)
}

// clientID returns the ID in the secret of a client. The client_id of a request counts for nothing: stock
// clients with such a secret as auth key send another one (feature/oauthkey).
func clientID(secret string) string {
	parts := strings.Split(secret, "-")
	if len(parts) != 4 {
		return ""
	}
	return parts[2]
}

// requestedScopes returns the scopes of a token: all granted ones, or the requested subset. The hosted
// API takes a list with commas for no list (tailscale/tailscale#15456).
func requestedScopes(granted []string, requested string) ([]string, error) {
	scopes := strings.Fields(requested)
	if len(scopes) == 0 || strings.Contains(requested, ",") {
		return granted, nil
	}
	for _, scope := range scopes {
		if !grants(granted, scope) {
			message := fmt.Sprintf("OAuth client cannot grant scopes %q", requested)
			return nil, &Refusal{Status: http.StatusForbidden, Message: message}
		}
	}
	return scopes, nil
}

func (s *Server) requestedTags(client client, scopes, requested []string) ([]string, error) {
	if len(requested) == 0 {
		return client.Tags, nil
	}
	if !grants(scopes, scopeDevices) && !grants(scopes, scopeAuthKeys) {
		return nil, badRequest("tags need the scope %s or %s", scopeDevices, scopeAuthKeys)
	}
	return requested, s.checkDeviceTags(actor{client: client.ID, scopes: scopes, tags: client.Tags}, requested)
}

func (s *Server) grantToken(w http.ResponseWriter, client string, scopes, tags []string) error {
	secret, err := s.addToken(&token{Client: client, Scopes: scopes, Tags: tags}, tokenLifetime)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"access_token": secret,
		"token_type":   "Bearer",
		"expires_in":   int(tokenLifetime.Seconds()),
		"scope":        strings.Join(scopes, " "),
	})
	return nil
}

// addToken keeps a new token and returns its secret.
func (s *Server) addToken(token *token, lifetime time.Duration) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	token.ID = newID()
	token.Created = s.now()
	token.Expires = token.Created.Add(lifetime)
	token.Scopes, token.Tags = slices.Clone(token.Scopes), slices.Clone(token.Tags)
	secret := newSecret("api", token.ID)
	s.state.Tokens[secret] = token
	s.state.Secrets = append(s.state.Secrets, secret)
	return secret, s.save()
}
