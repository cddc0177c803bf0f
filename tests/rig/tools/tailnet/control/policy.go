package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/tailscale/hujson"
	"tailscale.com/tailcfg"
)

// Policy is the part of a tailnet policy file that the rig needs.
//
// A file with neither acls nor grants allows everything, one with either allows what it lists.
type Policy struct {
	TagOwners map[string][]string `json:"tagOwners"`
	Groups    map[string][]string `json:"groups"`
	Hosts     map[string]string   `json:"hosts"`
	ACLs      []ACL               `json:"acls"`
	Grants    []Grant             `json:"grants"`
	Tests     []Test              `json:"tests"`

	rules []rule
}

// ACL lets src reach dst, each as HOST:PORTS.
type ACL struct {
	Action string   `json:"action"`
	Proto  string   `json:"proto"`
	Src    []string `json:"src"`
	Dst    []string `json:"dst"`
}

// Grant gives src access to dst: application capabilities, or ports.
type Grant struct {
	Src []string                        `json:"src"`
	Dst []string                        `json:"dst"`
	IP  []string                        `json:"ip"`
	App map[string][]tailcfg.RawMessage `json:"app"`
}

// rule is one ACL or grant in a common form.
type rule struct {
	src, dst []string
	ports    []ports
	app      map[string][]tailcfg.RawMessage
}

const (
	capRelay       = tailcfg.PeerCapabilityRelay
	capRelayTarget = tailcfg.PeerCapabilityRelayTarget
)

// wholeTailnet is what the hosted control server writes for "*" as a source: the addresses that
// devices can have.
var wholeTailnet = []string{"100.64.0.0-100.115.91.255", "100.115.94.0-100.127.255.255", "fd7a:115c:a1e0::/48"}

// parsePolicy refuses what the hosted control server refuses, tests that fail included.
func parsePolicy(data []byte) (*Policy, error) {
	// Standardize writes over its input.
	standard, err := hujson.Standardize(slices.Clone(data))
	if err != nil {
		return nil, err
	}
	policy := new(Policy)
	if err := json.Unmarshal(standard, policy); err != nil {
		return nil, err
	}
	if err := policy.compile(); err != nil {
		return nil, err
	}
	return policy, policy.runTests()
}

func (p *Policy) compile() error {
	// nil is a missing or null section; an empty one allows nothing.
	if p.ACLs == nil && p.Grants == nil {
		p.rules = append(p.rules, rule{src: []string{"*"}, dst: []string{"*"}, ports: everyPort})
	}
	for _, acl := range p.ACLs {
		if acl.Action != "accept" {
			return fmt.Errorf("action=%q is not supported", acl.Action)
		}
		for _, dst := range acl.Dst {
			host, text, err := splitDestination(dst)
			if err != nil {
				return err
			}
			ports, err := parsePorts(acl.Proto, text)
			if err != nil {
				return err
			}
			p.rules = append(p.rules, rule{src: acl.Src, dst: []string{host}, ports: ports})
		}
	}
	for _, grant := range p.Grants {
		one := rule{src: grant.Src, dst: grant.Dst, app: grant.App}
		for _, text := range grant.IP {
			proto, text := splitProtocol(text)
			ports, err := parsePorts(proto, text)
			if err != nil {
				return err
			}
			one.ports = append(one.ports, ports...)
		}
		for name := range grant.App {
			// As the hosted control server does: companions are its own to add.
			if tailcfg.PeerCapability(name) == capRelayTarget {
				return fmt.Errorf("capability name %q must not be in the tailscale.com domain", name)
			}
		}
		p.rules = append(p.rules, one)
	}
	for _, rule := range p.rules {
		for _, selector := range slices.Concat(rule.src, rule.dst) {
			if err := p.checkTag(selector); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *Policy) checkTag(selector string) error {
	if _, defined := p.TagOwners[selector]; strings.HasPrefix(selector, "tag:") && !defined {
		return fmt.Errorf("tag not found: %q", selector)
	}
	return nil
}

// filter computes what control sends to node: who may reach it, and with which capabilities.
func (p *Policy) filter(node *tailcfg.Node, nodes []*tailcfg.Node) []tailcfg.FilterRule {
	rules := []tailcfg.FilterRule{}
	for _, rule := range p.rules {
		isDestination := p.matches(rule.dst, node)
		sources := p.addresses(rule.src, nodes)
		if isDestination && len(sources) > 0 {
			for _, ports := range rule.ports {
				rules = append(rules, ports.filterRule(sources, node))
			}
		}
		for _, name := range slices.Sorted(maps.Keys(rule.app)) {
			capability := tailcfg.PeerCapability(name)
			if isDestination && len(sources) > 0 {
				rules = append(rules, capRule(sources, node, capability, rule.app[name]))
			}
			targets := p.addresses(rule.dst, nodes)
			if capability == capRelay && p.matches(rule.src, node) && len(targets) > 0 {
				rules = append(rules, capRule(targets, node, capRelayTarget, nil))
			}
		}
	}
	return rules
}

// visible says whether two nodes are in each other's network maps: if any rule concerns both,
// whatever it grants and in whichever direction.
func (p *Policy) visible(a, b *tailcfg.Node) bool {
	return slices.ContainsFunc(p.rules, func(rule rule) bool {
		return p.matches(rule.src, a) && p.matches(rule.dst, b) || p.matches(rule.src, b) && p.matches(rule.dst, a)
	})
}

func capRule(sources []string, node *tailcfg.Node, capability tailcfg.PeerCapability, values []tailcfg.RawMessage) tailcfg.FilterRule {
	return tailcfg.FilterRule{
		SrcIPs: sources,
		CapGrant: []tailcfg.CapGrant{{
			Dsts:   node.Addresses,
			CapMap: tailcfg.PeerCapMap{capability: values},
		}},
	}
}

func (p *Policy) addresses(selectors []string, nodes []*tailcfg.Node) []string {
	if slices.Contains(selectors, "*") {
		return wholeTailnet
	}
	found := []string{}
	for _, node := range nodes {
		if p.matches(selectors, node) {
			for _, prefix := range node.Addresses {
				found = append(found, prefix.Addr().String())
			}
		}
	}
	return found
}

func (p *Policy) matches(selectors []string, node *tailcfg.Node) bool {
	tagged := len(node.Tags) > 0
	login := logins[node.User]
	return slices.ContainsFunc(selectors, func(selector string) bool {
		switch {
		case selector == "*":
			return true
		case strings.HasPrefix(selector, "tag:"):
			return slices.Contains(node.Tags, selector)
		case selector == "autogroup:tagged":
			return tagged
		case strings.HasPrefix(selector, "autogroup:"):
			return !tagged && isIn(selector, login)
		case strings.HasPrefix(selector, "group:"):
			return !tagged && slices.Contains(p.Groups[selector], login)
		case strings.Contains(selector, "@"):
			return !tagged && selector == login
		}
		net, err := p.network(selector)
		return err == nil && slices.ContainsFunc(node.Addresses, func(address netip.Prefix) bool {
			return net.Contains(address.Addr())
		})
	})
}

// network reads an address, a network, or the name of one in hosts.
func (p *Policy) network(selector string) (netip.Prefix, error) {
	if host, named := p.Hosts[selector]; named {
		selector = host
	}
	if ip, err := netip.ParseAddr(selector); err == nil {
		return ip.Prefix(ip.BitLen())
	}
	return netip.ParsePrefix(selector)
}
