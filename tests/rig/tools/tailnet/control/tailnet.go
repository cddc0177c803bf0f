package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log"
	"net/http"
	"slices"
	"sync"
	"time"

	"peerrelay.dev/rig/tailnet/api"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

const (
	// domain ends the names of devices.
	domain = "rig.ts.net"
	// keepAlive is how often an idle map stream hears from control; the hosted one takes about a minute.
	keepAlive = 50 * time.Second
	// attrMisled makes a client believe in a grant that relays do not have, as while a policy spreads.
	attrMisled = "rig-misled"
	// nodeNotFound is the answer to a device that was deleted (tailscale/tailscale#12032).
	nodeNotFound = "node not found"
)

// tailnet knows the devices and sends them network maps according to the policy.
type tailnet struct {
	derp   *tailcfg.DERPMap
	policy *policyFile
	api    *api.Server

	mu      sync.Mutex
	nodes   map[key.NodePublic]*tailcfg.Node
	records map[key.NodePublic]*record
	streams map[chan struct{}]key.NodePublic
	attrs   map[key.NodePublic]tailcfg.NodeCapMap
	lock    lock
	// relayStreamAge is the age at which map streams of relays end; 0 for never.
	relayStreamAge time.Duration
	// opened counts the map streams of each device.
	opened map[key.NodePublic]int
}

// newTailnet makes a tailnet without devices. Auth keys and credentials are in the file state.
func newTailnet(derp *tailcfg.DERPMap, policy *policyFile, state string) (*tailnet, error) {
	t := &tailnet{
		derp:    derp,
		policy:  policy,
		nodes:   map[key.NodePublic]*tailcfg.Node{},
		records: map[key.NodePublic]*record{},
		streams: map[chan struct{}]key.NodePublic{},
		attrs:   map[key.NodePublic]tailcfg.NodeCapMap{},
		opened:  map[key.NodePublic]int{},
	}
	var err error
	t.api, err = api.New(t, domain, state, time.Now)
	return t, err
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
	t.opened[node]++
	return stream
}

// limitRelayStreams makes the map streams of relays end at an age, as proxies do; 0 makes them last.
func (t *tailnet) limitRelayStreams(age time.Duration) {
	t.mu.Lock()
	t.relayStreamAge = age
	t.mu.Unlock()
	t.notify()
}

// left is the time until a map stream ends, if it does.
func (t *tailnet) left(of key.NodePublic, began time.Time) (left time.Duration, ends bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	node := t.nodes[of]
	if t.relayStreamAge == 0 || node == nil || !node.Hostinfo.Valid() || !node.Hostinfo.PeerRelay() {
		return 0, false
	}
	return time.Until(began.Add(t.relayStreamAge)), true
}

func (t *tailnet) unsubscribe(stream chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if record := t.records[t.streams[stream]]; record != nil {
		record.lastSeen = time.Now()
	}
	delete(t.streams, stream)
}

func (t *tailnet) serveMap(ctx context.Context, w *mapWriter, machine key.MachinePublic, req *tailcfg.MapRequest) {
	if !req.Stream {
		// Control takes host info, endpoints and the disco key from these requests only
		// (tailcfg.MapRequest.Stream).
		if !req.ReadOnly && t.update(machine, req) {
			t.notify()
		}
		res := t.mapResponse(machine, req)
		if res == nil {
			http.Error(w.http, nodeNotFound, http.StatusNotFound)
			return
		}
		w.send(res)
		return
	}
	stream := t.subscribe(req.NodeKey)
	defer t.unsubscribe(stream)
	var sent peerList
	began := time.Now()
	for {
		res := t.mapResponse(machine, req)
		if res == nil {
			// Once the stream has begun, its end says so.
			if sent == nil {
				http.Error(w.http, nodeNotFound, http.StatusNotFound)
			}
			return
		}
		sent = sent.delta(res)
		if w.send(res) != nil {
			return
		}
		for idle := true; idle; {
			var end <-chan time.Time
			if left, ends := t.left(req.NodeKey, began); ends {
				end = time.After(left)
			}
			select {
			case <-ctx.Done():
				return
			case <-end:
				return
			case <-stream:
				idle = false
			case <-time.After(keepAlive):
				if w.send(&tailcfg.MapResponse{KeepAlive: true}) != nil {
					return
				}
			}
		}
	}
}

// peerList is what a stream has said of peers.
type peerList map[tailcfg.NodeID][]byte

// delta turns the peers of a message into the difference to what was sent, except in the first
// message. A list of no peers cannot be sent in any other way.
func (sent peerList) delta(res *tailcfg.MapResponse) peerList {
	now := peerList{}
	for _, peer := range res.Peers {
		text, err := json.Marshal(peer)
		if err != nil {
			panic(err)
		}
		now[peer.ID] = text
		if sent != nil && !bytes.Equal(sent[peer.ID], text) {
			res.PeersChanged = append(res.PeersChanged, peer)
		}
	}
	if sent != nil {
		res.Peers = nil
	}
	for id := range sent {
		if now[id] == nil {
			res.PeersRemoved = append(res.PeersRemoved, id)
		}
	}
	return now
}

func (t *tailnet) update(machine key.MachinePublic, req *tailcfg.MapRequest) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	node := t.nodes[req.NodeKey]
	if node == nil || node.Machine != machine {
		return false
	}
	node.Endpoints = slices.Clone(req.Endpoints)
	node.DiscoKey = req.DiscoKey
	node.Cap = req.Version
	if req.Hostinfo != nil {
		t.retag(node, req.Hostinfo.RequestTags)
		node.Hostinfo = req.Hostinfo.View()
		if info := req.Hostinfo.NetInfo; info != nil && info.PreferredDERP != 0 {
			node.HomeDERP = info.PreferredDERP
		}
	}
	return true
}

// mapResponse is everything that a device is told, or nothing if control does not know it.
func (t *tailnet) mapResponse(machine key.MachinePublic, req *tailcfg.MapRequest) *tailcfg.MapResponse {
	policy := t.policy.policy()
	t.mu.Lock()
	defer t.mu.Unlock()
	known := t.nodes[req.NodeKey]
	if known == nil || known.Machine != machine {
		return nil
	}
	now := time.Now().UTC()
	node := known.Clone()
	node.CapMap = t.attrs[req.NodeKey]
	node.Capabilities = append(node.Capabilities, tailcfg.NodeAttrDisableUPnP, capLock)
	nodes := t.sortedNodes()
	rules := policy.filter(node, nodes)
	misled := node.CapMap.Contains(attrMisled)
	if misled {
		// It takes every node for a relay that it may use; no relay knows of that.
		rules = append(rules, capRule(wholeTailnet, node, capRelayTarget, nil))
	}
	lockInfo, err := t.lock.info()
	if err != nil {
		log.Print(err)
	}
	res := &tailcfg.MapResponse{
		Node:         node,
		TKAInfo:      lockInfo,
		DERPMap:      t.derp,
		Domain:       domain,
		DNSConfig:    &tailcfg.DNSConfig{},
		UserProfiles: profiles(),
		ControlTime:  &now,
		// A PacketFilter of no rules cannot be sent.
		PacketFilters: map[string][]tailcfg.FilterRule{"*": nil, "base": rules},
	}
	for _, peer := range nodes {
		if peer.ID == node.ID || req.OmitPeers || !misled && !policy.visible(node, peer) {
			continue
		}
		if !node.MachineAuthorized || !peer.MachineAuthorized {
			continue
		}
		// Clients take some ways only for peers that are online.
		online := true
		peer.Online = &online
		res.Peers = append(res.Peers, peer)
	}
	return res
}

// sortedNodes is a copy of all nodes in the order of their numbers. The caller holds t.mu.
func (t *tailnet) sortedNodes() []*tailcfg.Node {
	nodes := make([]*tailcfg.Node, 0, len(t.nodes))
	for _, node := range t.nodes {
		nodes = append(nodes, node.Clone())
	}
	slices.SortFunc(nodes, func(a, b *tailcfg.Node) int { return int(a.ID - b.ID) })
	return nodes
}

func profiles() (all []tailcfg.UserProfile) {
	for id, login := range logins {
		all = append(all, tailcfg.UserProfile{ID: id, LoginName: login, DisplayName: login})
	}
	return all
}
