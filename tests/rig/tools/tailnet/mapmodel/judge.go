package main

import (
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/logger"
	"tailscale.com/types/netmap"
	"tailscale.com/wgengine/filter"
)

// answer is what the relay of this device would do after a step.
type answer struct {
	// Ended says that the client gave up the stream.
	Ended bool `json:"ended"`
	// Disabled says that the policy turns the relay off.
	Disabled bool   `json:"disabled"`
	Peers    []peer `json:"peers"`
}

type peer struct {
	Key      string `json:"key"`
	Disco    string `json:"disco"`
	Home     int    `json:"home"`
	MayRelay bool   `json:"mayRelay"`
}

func (s *session) judge(now time.Time) answer {
	result := answer{Peers: []peer{}}
	nm := s.current
	if nm == nil {
		return result
	}
	// As feature/relayserver and ipnlocal do.
	result.Disabled = nm.SelfNode.HasCap(tailcfg.NodeAttrDisableRelayServer)
	filt := filter.New(nm.PacketFilter, nil, nil, nil, nil, logger.Discard)
	for _, node := range nm.Peers {
		result.Peers = append(result.Peers, peer{
			Key:      node.Key().String(),
			Disco:    node.DiscoKey().String(),
			Home:     node.HomeDERP(),
			MayRelay: !s.clock.expired(node, now) && hasRelayCap(filt, node, nm),
		})
	}
	return result
}

// hasRelayCap is magicsock.nodeHasCap, which is not exported.
func hasRelayCap(filt *filter.Filter, src tailcfg.NodeView, nm *netmap.NetworkMap) bool {
	if src.UnsignedPeerAPIOnly() {
		return false
	}
	for _, from := range src.Addresses().All() {
		for _, to := range nm.SelfNode.Addresses().All() {
			if from.IsSingleIP() && to.IsSingleIP() && from.Addr().BitLen() == to.Addr().BitLen() {
				return filt.CapsWithValues(from.Addr(), to.Addr()).HasCapability(tailcfg.PeerCapabilityRelay)
			}
		}
	}
	return false
}

// clock is the part of ipnlocal.expiryManager that says which peers have expired; it is not exported.
type clock struct{ delta time.Duration }

func (c *clock) hear(control, local time.Time) {
	c.delta = control.Sub(local)
	if c.delta.Abs() <= time.Minute {
		c.delta = 0
	}
}

func (c *clock) expired(node tailcfg.NodeView, local time.Time) bool {
	now := local.Add(c.delta)
	switch expiry := node.KeyExpiry(); {
	case node.Expired():
		return true
	case now.Before(time.Unix(1673373066, 0)):
		return false
	default:
		return !expiry.IsZero() && !expiry.After(now)
	}
}
