package main

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/tstest/integration/testcontrol"
	"tailscale.com/types/key"
)

// keepAlive is how often an idle map stream hears from control; the hosted one takes about a minute.
const keepAlive = 50 * time.Second

// attrMisled makes a client believe in a grant that relays do not have, as while a policy spreads.
const attrMisled = "rig-misled"

// tailnet sends network maps that carry the policy's packet filters.
type tailnet struct {
	server *testcontrol.Server
	policy *policyFile

	mu      sync.Mutex
	streams map[chan struct{}]key.NodePublic
	attrs   map[key.NodePublic]tailcfg.NodeCapMap
}

func newTailnet(server *testcontrol.Server, policy *policyFile) *tailnet {
	return &tailnet{
		server:  server,
		policy:  policy,
		streams: map[chan struct{}]key.NodePublic{},
		attrs:   map[key.NodePublic]tailcfg.NodeCapMap{},
	}
}

func (t *tailnet) followPolicy(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.policy.changed:
			t.notify()
		}
	}
}

// notify makes every open stream send a new map.
func (t *tailnet) notify() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for stream := range t.streams {
		select {
		case stream <- struct{}{}:
		default: // one is pending already
		}
	}
}

func (t *tailnet) subscribe(node key.NodePublic) chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	stream := make(chan struct{}, 1)
	t.streams[stream] = node
	return stream
}

func (t *tailnet) unsubscribe(stream chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.streams, stream)
}

// serveMap is [testcontrol.Server.AltMapStream].
func (t *tailnet) serveMap(ctx context.Context, w testcontrol.MapStreamWriter, req *tailcfg.MapRequest) {
	if !req.Stream {
		// Control takes host info, endpoints and the disco key from these requests only
		// (tailcfg.MapRequest.Stream).
		if !req.ReadOnly && t.update(req) {
			t.notify()
		}
		if res := t.mapResponse(req); res != nil {
			w.SendMapMessage(res)
		}
		return
	}
	stream := t.subscribe(req.NodeKey)
	defer t.unsubscribe(stream)
	for {
		res := t.mapResponse(req)
		if res == nil || w.SendMapMessage(res) != nil {
			return
		}
		for idle := true; idle; {
			select {
			case <-ctx.Done():
				return
			case <-stream:
				idle = false
			case <-time.After(keepAlive):
				if w.SendMapMessage(&tailcfg.MapResponse{KeepAlive: true}) != nil {
					return
				}
			}
		}
	}
}

func (t *tailnet) update(req *tailcfg.MapRequest) bool {
	node := t.server.Node(req.NodeKey)
	if node == nil {
		return false
	}
	node.Endpoints = slices.Clone(req.Endpoints)
	node.DiscoKey = req.DiscoKey
	node.Cap = req.Version
	if req.Hostinfo != nil {
		node.Hostinfo = req.Hostinfo.View()
		if info := req.Hostinfo.NetInfo; info != nil && info.PreferredDERP != 0 {
			node.HomeDERP = info.PreferredDERP
		}
	}
	t.server.UpdateNode(node)
	return true
}

func (t *tailnet) mapResponse(req *tailcfg.MapRequest) *tailcfg.MapResponse {
	res, err := t.server.MapResponse(req)
	if err != nil || res == nil {
		return nil
	}
	t.mu.Lock()
	res.Node.CapMap = t.attrs[req.NodeKey]
	t.mu.Unlock()
	nodes := t.server.AllNodes()
	res.PacketFilter = t.policy.current.Load().filter(res.Node, nodes)
	if res.Node.CapMap.Contains(attrMisled) {
		// It takes every node for a relay that it may use; no relay knows of that.
		res.PacketFilter = append(res.PacketFilter, capRule(addresses([]string{"*"}, nodes), res.Node, capRelayTarget, nil))
	}
	return res
}

type nodeStatus struct {
	Name      string
	Key       string
	Addresses []string
	Tags      []string
	PeerRelay bool
	HomeDERP  int
	Streaming bool
}

func (t *tailnet) nodes() []nodeStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	streaming := map[key.NodePublic]bool{}
	for _, node := range t.streams {
		streaming[node] = true
	}
	found := []nodeStatus{}
	for _, node := range t.server.AllNodes() {
		status := nodeStatus{
			Name:      strings.TrimSuffix(node.Name, ".rig.ts.net."),
			Key:       node.Key.String(),
			Tags:      node.Tags,
			PeerRelay: node.Hostinfo.Valid() && node.Hostinfo.PeerRelay(),
			HomeDERP:  node.HomeDERP,
			Streaming: streaming[node.Key],
		}
		for _, prefix := range node.Addresses {
			status.Addresses = append(status.Addresses, prefix.Addr().String())
		}
		found = append(found, status)
	}
	return found
}

func (t *tailnet) serveAdmin(ctx context.Context, path string) error {
	os.Remove(path)
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /nodes", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(t.nodes())
	})
	mux.HandleFunc("POST /attr", t.named(func(node *tailcfg.Node, r *http.Request) {
		attrs := tailcfg.NodeCapMap{}
		if r.FormValue("set") == "true" {
			attrs[tailcfg.NodeCapability(r.FormValue("attr"))] = nil
		}
		t.mu.Lock()
		t.attrs[node.Key] = attrs
		t.mu.Unlock()
	}))
	mux.HandleFunc("POST /expire", t.named(func(node *tailcfg.Node, r *http.Request) {
		node.KeyExpiry = time.Time{}
		if r.FormValue("set") == "true" {
			node.KeyExpiry = time.Now().Add(-time.Minute)
		}
		t.server.UpdateNode(node)
	}))
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
		for _, node := range t.server.AllNodes() {
			if strings.TrimSuffix(node.Name, ".rig.ts.net.") == name {
				change(node, r)
				found = true
			}
		}
		if !found {
			http.Error(w, "no node "+name, http.StatusNotFound)
			return
		}
		t.notify()
	}
}
