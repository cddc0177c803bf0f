package api

import (
	"net/http"
	"slices"
	"strings"
)

// AdminRoutes adds to mux what tests do beside the API itself:
//
//	POST   /tokens?user=LOGIN       makes an access token of a user, with all scopes
//	PUT    /issuers?issuer=URL      replaces the keys of an issuer of tokens by the body, a JWKS
//	POST   /credentials/expire?id=  lets an auth key, or the access tokens of an OAuth client, expire
//	GET    /keys                    lists all auth keys with the devices that joined by them
//	GET    /secrets                 lists all secrets that were ever made
//	GET    /requests                lists requests of the API, the newest last
//	DELETE /requests                forgets them
//	GET    /faults                  lists the faults that are injected
//	POST   /faults                  injects the fault in the body
//	DELETE /faults                  removes all faults
//
// The API itself is there too, without faults and records.
func (s *Server) AdminRoutes(mux *http.ServeMux) {
	mux.Handle("/api/v2/", s.Direct())
	mux.HandleFunc("POST /tokens", answer(s.addUserToken))
	mux.HandleFunc("PUT /issuers", answer(func(w http.ResponseWriter, r *http.Request) error {
		set, err := readBody(r)
		if err == nil {
			err = s.TrustIssuer(r.FormValue("issuer"), set)
		}
		return done(w, err)
	}))
	mux.HandleFunc("POST /credentials/expire", answer(func(w http.ResponseWriter, r *http.Request) error {
		return done(w, s.Expire(r.FormValue("id")))
	}))
	mux.HandleFunc("GET /keys", answer(show(s.AuthKeys)))
	mux.HandleFunc("GET /secrets", answer(show(s.Secrets)))
	mux.HandleFunc("GET /requests", answer(show(s.Requests)))
	mux.HandleFunc("DELETE /requests", answer(func(w http.ResponseWriter, _ *http.Request) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.requests = nil
		return ok(w)
	}))
	mux.HandleFunc("GET /faults", answer(show(s.Faults.List)))
	mux.HandleFunc("POST /faults", answer(func(w http.ResponseWriter, r *http.Request) error {
		var fault Fault
		if err := readJSON(r, &fault); err != nil {
			return err
		}
		return done(w, s.Faults.Add(fault))
	}))
	mux.HandleFunc("DELETE /faults", answer(func(w http.ResponseWriter, _ *http.Request) error {
		s.Faults.Clear()
		return ok(w)
	}))
}

func show[T any](list func() []T) handler {
	return func(w http.ResponseWriter, _ *http.Request) error {
		writeJSON(w, http.StatusOK, list())
		return nil
	}
}

func done(w http.ResponseWriter, err error) error {
	if err != nil {
		return err
	}
	return ok(w)
}

func (s *Server) addUserToken(w http.ResponseWriter, r *http.Request) error {
	secret, err := s.UserToken(r.FormValue("user"))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]string{"token": secret})
	return nil
}

// UserToken makes an access token of a user, with all scopes.
func (s *Server) UserToken(login string) (string, error) {
	if login == "" {
		return "", badRequest("user must be set")
	}
	return s.addToken(&token{User: login}, longestExpiry)
}

// Expire lets an auth key, or the access tokens of an OAuth client, expire now.
func (s *Server) Expire(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if key := s.state.Keys[id]; key != nil {
		key.Expires = now
	} else if s.state.Clients[id] == nil {
		return notFound
	}
	for _, token := range s.state.Tokens {
		if token.Client == id {
			token.Expires = now
		}
	}
	return s.save()
}

// AuthKeys returns all auth keys that were ever made, in the order of their IDs.
func (s *Server) AuthKeys() []AuthKey {
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := []AuthKey{}
	for _, key := range s.state.Keys {
		copied := *key
		copied.Devices = slices.Clone(key.Devices)
		keys = append(keys, copied)
	}
	slices.SortFunc(keys, func(a, b AuthKey) int { return strings.Compare(a.ID, b.ID) })
	return keys
}

// Secrets returns all secrets that the server ever made.
func (s *Server) Secrets() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.state.Secrets)
}

// Requests returns the last requests that the API has answered, the newest last.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}
