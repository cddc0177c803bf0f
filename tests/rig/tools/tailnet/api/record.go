package api

import (
	"context"
	"net/http"
	"time"
)

// recordLimit is the number of requests that are remembered.
const recordLimit = 10_000

// Request is a request that the API has answered.
type Request struct {
	Time   time.Time `json:"time"`
	Method string    `json:"method"`
	Path   string    `json:"path"`
	// Status is the status of the answer; 0 if the connection was closed without one.
	Status int `json:"status"`
	// Client is the ID of the OAuth client of the access token, if there was one.
	Client string `json:"client,omitempty"`
	// Note is the reason of a refusal that the answer does not tell.
	Note string `json:"note,omitempty"`
}

type noteKey struct{}

// record remembers requests, the newest last.
func (s *Server) record(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		entry := Request{Time: s.now(), Method: r.Method, Path: r.URL.Path}
		if actor, err := s.authenticate(r); err == nil {
			entry.Client = actor.client
		}
		w.Header().Set("X-Tailscale-Request-Id", "REQ-"+newID())
		answer := &statusWriter{ResponseWriter: w}
		defer func() {
			entry.Status = answer.status
			s.mu.Lock()
			defer s.mu.Unlock()
			s.requests = append(s.requests, entry)
			if surplus := len(s.requests) - recordLimit; surplus > 0 {
				s.requests = s.requests[surplus:]
			}
		}()
		next.ServeHTTP(answer, r.WithContext(context.WithValue(r.Context(), noteKey{}, &entry.Note)))
	})
}

// note adds words to the record of a request.
func (s *Server) note(r *http.Request, words string) {
	if note, recorded := r.Context().Value(noteKey{}).(*string); recorded {
		*note = words
	}
}

// statusWriter remembers the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(data []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(data)
}
