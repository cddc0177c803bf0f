package main

import (
	"net/netip"
	"time"

	"go4.org/mem"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
	"tailscale.com/types/tkatype"
)

// makeMap sets every field that the relay reads, each to a value of its own.
func makeMap() *tailcfg.MapResponse {
	nodeKey := key.NodePublicFromRaw32(mem.B(pattern(0x11, 32)))
	discoKey := key.DiscoPublicFromRaw32(mem.B(pattern(0x22, 32)))
	expiry := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	node := func(id tailcfg.NodeID) *tailcfg.Node {
		return &tailcfg.Node{
			ID:                  id,
			StableID:            "stable",
			Name:                "name.example.ts.net.",
			Key:                 nodeKey,
			KeySignature:        tkatype.MarshaledSignature{1},
			KeyExpiry:           expiry,
			DiscoKey:            discoKey,
			Addresses:           []netip.Prefix{netip.MustParsePrefix("100.64.0.1/32")},
			HomeDERP:            7,
			LegacyDERPString:    "127.3.3.40:8",
			Tags:                []string{"tag:office"},
			Capabilities:        []tailcfg.NodeCapability{"https://example.com/cap"},
			CapMap:              tailcfg.NodeCapMap{"disable-relay-server": nil},
			UnsignedPeerAPIOnly: true,
			MachineAuthorized:   true,
			Expired:             true,
			User:                10,
			Hostinfo:            (&tailcfg.Hostinfo{PeerRelay: true}).View(),
		}
	}
	rules := []tailcfg.FilterRule{{
		SrcIPs: []string{"100.64.0.2"},
		CapGrant: []tailcfg.CapGrant{{
			Dsts:   []netip.Prefix{netip.MustParsePrefix("100.64.0.1/32")},
			Caps:   []tailcfg.PeerCapability{"https://example.com/peer-cap"},
			CapMap: tailcfg.PeerCapMap{tailcfg.PeerCapabilityRelay: nil},
		}},
	}}
	return &tailcfg.MapResponse{
		KeepAlive: true,
		Node:      node(1),
		DERPMap: &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{9: {
			RegionCode:      "rig",
			Avoid:           true,
			NoMeasureNoHome: true,
			Nodes: []*tailcfg.DERPNode{{
				HostName:         "derp.example.net",
				CertName:         "cert.example.net",
				IPv4:             "192.0.2.1",
				IPv6:             "2001:db8::1",
				DERPPort:         8443,
				STUNPort:         3479,
				STUNOnly:         true,
				InsecureForTests: true,
			}},
		}}},
		Peers:        []*tailcfg.Node{node(2)},
		PeersChanged: []*tailcfg.Node{node(3)},
		PeersRemoved: []tailcfg.NodeID{4},
		PeersChangedPatch: []*tailcfg.PeerChange{{
			NodeID:       5,
			DERPRegion:   6,
			Key:          &nodeKey,
			KeySignature: tkatype.MarshaledSignature{1},
			DiscoKey:     &discoKey,
			KeyExpiry:    &expiry,
		}},
		PacketFilter:  rules,
		PacketFilters: map[string][]tailcfg.FilterRule{"named": rules},
		ControlTime:   &expiry,
		TKAInfo:       &tailcfg.TKAInfo{Disabled: true},
		UserProfiles:  []tailcfg.UserProfile{{ID: 11, LoginName: "alice@example.com"}},
	}
}
