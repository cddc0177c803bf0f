package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"sync"
	"time"
)

// policyFile is the policy in force, and a signal that it changed.
type policyFile struct {
	changed chan struct{}

	mu      sync.Mutex
	current *Policy
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

func (f *policyFile) lastWrite() policyWrite {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.written
}

// take puts a text in force, or keeps the policy that is.
func (f *policyFile) take(text string) error {
	policy, err := parsePolicy([]byte(text))
	f.mu.Lock()
	defer f.mu.Unlock()
	f.written = policyWrite{Text: text}
	if err != nil {
		f.written.Refused = err.Error()
		return err
	}
	f.current = policy
	return nil
}

func watchPolicy(ctx context.Context, path string) (*policyFile, error) {
	file := &policyFile{changed: make(chan struct{}, 1)}
	if path == "" {
		return file, file.take("{}")
	}
	last, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if err := file.take(string(last)); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	go func() {
		for tick := time.NewTicker(200 * time.Millisecond); ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			data, err := os.ReadFile(path)
			if err != nil || string(data) == file.lastWrite().Text {
				continue
			}
			if err := file.take(string(data)); err != nil {
				log.Printf("policy refused, the one before stays in force: %v", err)
				continue
			}
			log.Printf("policy changed: %d rules", len(file.policy().rules))
			file.changed <- struct{}{}
		}
	}()
	return file, nil
}
