package api

import (
	"cmp"
	"net/http"
	"path"
	"slices"
	"sync"
	"time"
)

// Fault makes requests fail. It concerns those whose method and path match.
type Fault struct {
	// Method is an HTTP method; empty for all.
	Method string `json:"method,omitempty"`
	// Path is a pattern of [path.Match], such as /api/v2/device/*.
	Path string `json:"path"`
	// Skip is the number of requests that go through first.
	Skip int `json:"skip,omitempty"`
	// Times is the number of requests that fail; 0 for all until the fault is removed.
	Times int `json:"times,omitempty"`
	// DelayMs is the time before the request is handled or fails, in milliseconds.
	DelayMs int `json:"delayMs,omitempty"`
	// Lose is "request" to close the connection instead of handling the request, or "answer" to handle
	// it and close the connection then.
	Lose string `json:"lose,omitempty"`
	// Status is the status of the answer that replaces the handling of the request.
	Status int `json:"status,omitempty"`
	// Message is the message of that answer.
	Message string `json:"message,omitempty"`
	// RetryAfter is the header of that answer: seconds or a date.
	RetryAfter string `json:"retryAfter,omitempty"`
	// Failed is the number of requests that have failed so far.
	Failed int `json:"failed"`
}

// Faults are the faults that the server injects. The zero value has none.
type Faults struct {
	mu  sync.Mutex
	all []*Fault
}

// Add injects a fault from now on. Of several that match a request, the first that is not used up acts.
func (f *Faults) Add(fault Fault) error {
	if _, err := path.Match(fault.Path, ""); err != nil {
		return badRequest("invalid path pattern %q", fault.Path)
	}
	if !slices.Contains([]string{"", "request", "answer"}, fault.Lose) {
		return badRequest("lose must be request or answer, not %q", fault.Lose)
	}
	if fault.Lose == "" && fault.Status == 0 && fault.DelayMs == 0 {
		return badRequest("the fault does nothing: set lose, status or delayMs")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	fault.Failed = 0
	f.all = append(f.all, &fault)
	return nil
}

// Clear removes all faults.
func (f *Faults) Clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = nil
}

// List returns all faults, also those that are used up.
func (f *Faults) List() []Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	listed := []Fault{}
	for _, fault := range f.all {
		listed = append(listed, *fault)
	}
	return listed
}

// take returns a copy of the fault that a request meets, if there is one.
func (f *Faults) take(r *http.Request) *Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, fault := range f.all {
		matched, _ := path.Match(fault.Path, r.URL.Path)
		if !matched || fault.Method != "" && fault.Method != r.Method {
			continue
		}
		if fault.Skip > 0 {
			fault.Skip--
			continue
		}
		if fault.Times == 0 || fault.Failed < fault.Times {
			fault.Failed++
			met := *fault
			return &met
		}
	}
	return nil
}

// Wrap lets requests meet the faults before they reach next.
func (f *Faults) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fault := f.take(r)
		if fault == nil {
			next.ServeHTTP(w, r)
			return
		}
		select {
		case <-time.After(time.Duration(fault.DelayMs) * time.Millisecond):
		case <-r.Context().Done():
		}
		switch {
		case fault.Lose == "request":
			panic(http.ErrAbortHandler)
		case fault.Lose == "answer":
			next.ServeHTTP(lost{header: http.Header{}}, r)
			panic(http.ErrAbortHandler)
		case fault.Status != 0:
			if fault.RetryAfter != "" {
				w.Header().Set("Retry-After", fault.RetryAfter)
			}
			message := cmp.Or(fault.Message, http.StatusText(fault.Status))
			writeError(w, &Refusal{Status: fault.Status, Message: message})
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// lost takes an answer that nobody receives.
type lost struct{ header http.Header }

func (l lost) Header() http.Header          { return l.header }
func (lost) Write(data []byte) (int, error) { return len(data), nil }
func (lost) WriteHeader(int)                {}
func (lost) Flush()                         {}
