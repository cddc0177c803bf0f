// Package api is a server with the shape of Tailscale's API, version 2: access tokens, auth keys,
// OAuth clients, devices, the policy file and settings of one tailnet, under /api/v2.
//
// It follows the public descriptions of that API. Tailscale's own Go client is run against it.
package api

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"sync"
	"time"
)

// bodyLimit bounds the body of a request, in bytes.
const bodyLimit = 1 << 20

// Server serves the API of one tailnet. It is safe for concurrent use.
type Server struct {
	// Faults makes requests fail on purpose.
	Faults Faults

	tailnet Tailnet
	name    string
	now     func() time.Time
	file    string
	mux     *http.ServeMux

	mu       sync.Mutex
	state    state
	issuers  map[string][]publicKey
	settings settings
	requests []Request
}

// New makes a server for the tailnet with this name. Credentials and auth keys are kept in file, if it
// is not empty, and an earlier server's are read from it.
func New(tailnet Tailnet, name, file string, now func() time.Time) (*Server, error) {
	s := &Server{
		tailnet: tailnet,
		name:    name,
		now:     now,
		file:    file,
		mux:     http.NewServeMux(),
		issuers: map[string][]publicKey{},
	}
	if err := s.load(); err != nil {
		return nil, err
	}
	s.mux.HandleFunc("/api/v2/", func(w http.ResponseWriter, _ *http.Request) { writeError(w, notFound) })
	s.mux.HandleFunc("POST /api/v2/oauth/token", answer(s.issueToken))
	s.mux.HandleFunc("POST /api/v2/oauth/token-exchange", answer(s.exchangeToken))
	s.keyRoutes()
	s.deviceRoutes()
	s.policyRoutes()
	s.settingRoutes()
	return s, nil
}

// Handler serves the API to programs under test: it injects faults and records requests.
func (s *Server) Handler() http.Handler { return s.record(s.Faults.Wrap(s.mux)) }

// Direct serves the API to the tests themselves, without faults and records.
func (s *Server) Direct() http.Handler { return s.mux }

// handler answers a request, or returns the error that is the answer.
type handler func(http.ResponseWriter, *http.Request) error

// authorized answers a request of an actor.
type authorized func(http.ResponseWriter, *http.Request, actor) error

func answer(handle handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, bodyLimit)
		if err := handle(w, r); err != nil {
			writeError(w, err)
		}
	}
}

// route serves a pattern to actors that have all the scopes.
func (s *Server) route(pattern string, scopes []string, handle authorized) {
	s.mux.HandleFunc(pattern, answer(func(w http.ResponseWriter, r *http.Request) error {
		actor, err := s.authenticate(r)
		if err != nil {
			return err
		}
		if tailnet := r.PathValue("tailnet"); tailnet != "" && tailnet != "-" && tailnet != s.name {
			return notFound
		}
		for _, scope := range scopes {
			if !actor.may(scope) {
				return forbidden
			}
		}
		return handle(w, r, actor)
	}))
}

// Refusal is an error answer, in the form of Tailscale's API.
type Refusal struct {
	Status  int         `json:"-"`
	Message string      `json:"message"`
	Data    []Complaint `json:"data,omitempty"`
	Header  http.Header `json:"-"`
}

// Complaint is a part of a refused policy file: the source of a test, and what is wrong with it.
type Complaint struct {
	User     string   `json:"user"`
	Errors   []string `json:"errors,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
}

func (r *Refusal) Error() string {
	text := r.Message
	for _, complaint := range r.Data {
		for _, words := range append(complaint.Errors, complaint.Warnings...) {
			text += "\n" + complaint.User + ": " + words
		}
	}
	return text
}

var (
	invalidToken = &Refusal{Status: http.StatusUnauthorized, Message: "API token invalid"}
	unauthorized = &Refusal{Status: http.StatusForbidden, Message: "Unauthorized"}
	notFound     = &Refusal{Status: http.StatusNotFound, Message: "not found"}
	forbidden    = &Refusal{
		Status:  http.StatusForbidden,
		Message: "calling actor does not have enough permissions to perform this function",
	}
)

func badRequest(format string, args ...any) *Refusal {
	return &Refusal{Status: http.StatusBadRequest, Message: fmt.Sprintf(format, args...)}
}

func writeError(w http.ResponseWriter, err error) {
	refusal := &Refusal{Status: http.StatusInternalServerError, Message: err.Error()}
	errors.As(err, &refusal)
	writeJSON(w, refusal.Status, refusal)
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		log.Printf("no answer: %v", err)
	}
}

// ok answers a request that has no result.
func ok(w http.ResponseWriter) error {
	writeJSON(w, http.StatusOK, struct{}{})
	return nil
}

func readJSON(r *http.Request, body any) error {
	data, err := readBody(r)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, body); err != nil {
		return badRequest("invalid request body: %v", err)
	}
	return nil
}

func readBody(r *http.Request) ([]byte, error) {
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, badRequest("failed to read the request body: %v", err)
	}
	return data, nil
}

// newID makes an identifier in the form of Tailscale's.
func newID() string { return "k" + rand.Text()[:11] + "CNTRL" }

func newSecret(kind, id string) string { return "tskey-" + kind + "-" + id + "-" + rand.Text() }
