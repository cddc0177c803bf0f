package main

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"tailscale.com/tailcfg"
)

type nodeStatus struct {
	Name      string
	Key       string
	Addresses []string
	Tags      []string
	PeerRelay bool
	HomeDERP  int
	Streaming bool
	Streams   int
}

func (t *tailnet) status() []nodeStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	streaming := t.streaming()
	found := []nodeStatus{}
	for _, node := range t.sortedNodes() {
		status := nodeStatus{
			Name:      shortName(node),
			Key:       node.Key.String(),
			Tags:      node.Tags,
			PeerRelay: node.Hostinfo.Valid() && node.Hostinfo.PeerRelay(),
			HomeDERP:  node.HomeDERP,
			Streaming: streaming[node.Key],
			Streams:   t.opened[node.Key],
		}
		for _, prefix := range node.Addresses {
			status.Addresses = append(status.Addresses, prefix.Addr().String())
		}
		found = append(found, status)
	}
	return found
}

func shortName(node *tailcfg.Node) string {
	return strings.TrimSuffix(node.Name, "."+domain+".")
}

func (t *tailnet) serveAdmin(ctx context.Context, path string, regions []*derpRegion) error {
	os.Remove(path)
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /nodes", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(t.status())
	})
	mux.HandleFunc("GET /policy", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(t.policy.lastWrite())
	})
	t.api.AdminRoutes(mux)
	mux.HandleFunc("POST /attr", t.named(func(node *tailcfg.Node, r *http.Request) {
		attrs := tailcfg.NodeCapMap{}
		if r.FormValue("set") == "true" {
			attrs[tailcfg.NodeCapability(r.FormValue("attr"))] = nil
		}
		t.attrs[node.Key] = attrs
	}))
	mux.HandleFunc("POST /expire", t.named(func(node *tailcfg.Node, r *http.Request) {
		node.KeyExpiry = time.Time{}
		if r.FormValue("set") == "true" {
			node.KeyExpiry = time.Now().Add(-time.Minute)
			if in, err := time.ParseDuration(r.FormValue("in")); err == nil {
				node.KeyExpiry = time.Now().Add(in)
			}
		}
	}))
	mux.HandleFunc("POST /tags", t.named(func(node *tailcfg.Node, r *http.Request) {
		node.Tags = strings.Split(r.FormValue("tags"), ",")
	}))
	mux.HandleFunc("POST /ephemeral", func(http.ResponseWriter, *http.Request) { t.removeEphemeral() })
	mux.HandleFunc("POST /derp", serveStall(regions))
	mux.HandleFunc("POST /streams", func(w http.ResponseWriter, r *http.Request) {
		age, err := time.ParseDuration(r.FormValue("age"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		t.limitRelayStreams(age)
	})
	go http.Serve(listener, mux)
	go func() {
		<-ctx.Done()
		listener.Close()
	}()
	return nil
}

// named lets change act on each node that has the name in the request, and sends new maps.
func (t *tailnet) named(change func(*tailcfg.Node, *http.Request)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		name := r.FormValue("name")
		found := false
		t.mu.Lock()
		for _, node := range t.nodes {
			if shortName(node) == name {
				change(node, r)
				found = true
			}
		}
		t.mu.Unlock()
		if !found {
			http.Error(w, "no node "+name, http.StatusNotFound)
			return
		}
		t.notify()
	}
}
