package api

import (
	"net/http"
	"slices"
	"strings"
)

// actor is the user or OAuth client that makes a request.
type actor struct {
	// client is the ID of an OAuth client; user is the login name of a user. One of them is empty.
	client, user string
	scopes, tags []string
}

// Scopes that a request can need. "all" grants each, and one without ":read" grants the one with it.
const (
	scopeAll           = "all"
	scopeAllRead       = "all:read"
	scopeAuthKeys      = "auth_keys"
	scopeOAuthKeys     = "oauth_keys"
	scopeFederatedKeys = "federated_keys"
	scopeDevices       = "devices:core"
	scopePosture       = "devices:posture_attributes"
	scopePolicy        = "policy_file"
	scopeSettings      = "feature_settings"
)

func read(scope string) string { return scope + ":read" }

// may says whether the actor has a scope.
func (a actor) may(scope string) bool { return a.user != "" || grants(a.scopes, scope) }

func grants(granted []string, scope string) bool {
	bare, isRead := strings.CutSuffix(scope, ":read")
	return slices.Contains(granted, scope) || slices.Contains(granted, scopeAll) ||
		isRead && (slices.Contains(granted, bare) || slices.Contains(granted, scopeAllRead))
}

// authenticate finds the actor of a request, by an access token as bearer or as user name.
func (s *Server) authenticate(r *http.Request) (actor, error) {
	secret, isBearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !isBearer {
		secret, _, _ = r.BasicAuth()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	token := s.state.Tokens[secret]
	if token == nil || !s.now().Before(token.Expires) {
		if s.isClientSecret(secret) {
			return actor{}, forbidden
		}
		return actor{}, invalidToken
	}
	return actor{client: token.Client, user: token.User, scopes: token.Scopes, tags: token.Tags}, nil
}

// isClientSecret says whether an OAuth client has the secret. The caller holds s.mu.
func (s *Server) isClientSecret(secret string) bool {
	for _, client := range s.state.Clients {
		if client.Secret != "" && client.Secret == secret {
			return true
		}
	}
	return false
}

// owns says whether the policy lets the actor give the tag to devices.
func (s *Server) owns(a actor, tag string) bool {
	owners, defined := s.tailnet.TagOwners(tag)
	switch {
	case !defined:
		return false
	case a.user != "":
		return s.tailnet.UserOwns(a.user, tag)
	case len(a.tags) == 0:
		return slices.Contains(a.scopes, scopeAll)
	}
	return slices.ContainsFunc(a.tags, func(own string) bool { return slices.Contains(owners, own) })
}

// checkKeyTags refuses tags that a key of the actor must not have. A key of an OAuth client has all of
// the client's tags, or only tags that these own.
func (s *Server) checkKeyTags(a actor, tags []string) error {
	if a.user == "" && len(tags) == 0 {
		return badRequest("tailnet-owned auth key must have tags set")
	}
	if a.user == "" && sameTags(a.tags, tags) && s.defined(tags) {
		return nil
	}
	return checkEach(tags, func(tag string) bool { return s.owns(a, tag) })
}

// checkDeviceTags refuses tags that the actor must not give to a device.
func (s *Server) checkDeviceTags(a actor, tags []string) error {
	return checkEach(tags, func(tag string) bool {
		return s.owns(a, tag) || slices.Contains(a.tags, tag) && s.defined([]string{tag})
	})
}

func checkEach(tags []string, permitted func(string) bool) error {
	for _, tag := range tags {
		if !permitted(tag) {
			return badRequest("requested tags [%s] are invalid or not permitted", strings.Join(tags, " "))
		}
	}
	return nil
}

func (s *Server) defined(tags []string) bool {
	return !slices.ContainsFunc(tags, func(tag string) bool {
		_, defined := s.tailnet.TagOwners(tag)
		return !defined
	})
}

func sameTags(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}
