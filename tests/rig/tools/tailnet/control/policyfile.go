package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"sync"
	"time"

	"peerrelay.dev/rig/tailnet/api"
)

// policyFile is the policy in force, and a signal that it changed. The rig writes the file, and so does
// the API.
type policyFile struct {
	path    string
	changed chan struct{}

	mu      sync.Mutex
	current *Policy
	text    api.PolicyText
	written policyWrite
}

// policyWrite is the last text that was written into the file, and what control said to it.
type policyWrite struct {
	Text    string
	Refused string
}

func (f *policyFile) policy() *Policy {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.current
}

// inForce returns the text of the policy in force.
func (f *policyFile) inForce() api.PolicyText {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.text
}

func (f *policyFile) lastWrite() policyWrite {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.written
}

// take puts a text in force, or keeps the policy that is. The caller holds f.mu.
func (f *policyFile) take(text string) error {
	policy, err := parsePolicy([]byte(text))
	f.written = policyWrite{Text: text}
	if err != nil {
		f.written.Refused = err.Error()
		return err
	}
	f.current, f.text = policy, api.PolicyText{Text: text}
	return nil
}

// replace writes a text into the file and puts it in force, unless check refuses it or it is invalid.
func (f *policyFile) replace(text string, check func(api.PolicyText) error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := check(f.text); err != nil {
		return err
	}
	if _, err := parsePolicy([]byte(text)); err != nil {
		return err
	}
	if f.path != "" {
		staging := f.path + ".api"
		if err := os.WriteFile(staging, []byte(text), 0o600); err != nil {
			return err
		}
		if err := os.Rename(staging, f.path); err != nil {
			return err
		}
	}
	if err := f.take(text); err != nil {
		return err
	}
	f.signal()
	return nil
}

// signal tells that the policy changed.
func (f *policyFile) signal() {
	select {
	case f.changed <- struct{}{}:
	default: // one is pending already
	}
}

// reread takes over what the file contains, if that is not what was written last.
func (f *policyFile) reread() {
	f.mu.Lock()
	defer f.mu.Unlock()
	data, err := os.ReadFile(f.path)
	if err != nil || string(data) == f.written.Text {
		return
	}
	if err := f.take(string(data)); err != nil {
		log.Printf("policy refused, the one before stays in force: %v", err)
		return
	}
	log.Printf("policy changed: %d rules", len(f.current.rules))
	f.signal()
}

func watchPolicy(ctx context.Context, path string) (*policyFile, error) {
	file := &policyFile{path: path, changed: make(chan struct{}, 1)}
	if path == "" {
		err := file.take("{}")
		file.text.Untouched = true
		return file, err
	}
	first, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if err := file.take(string(first)); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	go func() {
		for tick := time.NewTicker(200 * time.Millisecond); ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				file.reread()
			}
		}
	}()
	return file, nil
}
