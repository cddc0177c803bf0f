package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tailscale/hujson"
	"tailscale.com/tailcfg"
)

// Policy is the part of a tailnet policy file that the rig needs.
type Policy struct {
	TagOwners map[string][]string `json:"tagOwners"`
	Grants    []Grant             `json:"grants"`
}

// Grant gives src access to dst: application capabilities, or ports.
type Grant struct {
	Src []string                        `json:"src"`
	Dst []string                        `json:"dst"`
	IP  []string                        `json:"ip"`
	App map[string][]tailcfg.RawMessage `json:"app"`
}

const (
	capRelay       = tailcfg.PeerCapabilityRelay
	capRelayTarget = tailcfg.PeerCapabilityRelayTarget
)

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
	for _, grant := range policy.Grants {
		for name := range grant.App {
			// As the hosted control server does: companions are its own to add.
			if tailcfg.PeerCapability(name) == capRelayTarget {
				return nil, fmt.Errorf("capability name %q must not be in the tailscale.com domain", name)
			}
		}
		for _, selector := range slices.Concat(grant.Src, grant.Dst) {
			if strings.HasPrefix(selector, "tag:") && policy.TagOwners[selector] == nil {
				return nil, fmt.Errorf("tag %q has no tagOwners entry", selector)
			}
		}
	}
	return policy, nil
}

// filter computes what control sends to node: who may reach it, and with which capabilities.
func (p *Policy) filter(node *tailcfg.Node, nodes []*tailcfg.Node) []tailcfg.FilterRule {
	rules := slices.Clone(tailcfg.FilterAllowAll)
	for _, grant := range p.Grants {
		for name, values := range grant.App {
			capability := tailcfg.PeerCapability(name)
			if matches(grant.Dst, node) {
				rules = append(rules, capRule(addresses(grant.Src, nodes), node, capability, values))
			}
			if capability == capRelay && matches(grant.Src, node) {
				rules = append(rules, capRule(addresses(grant.Dst, nodes), node, capRelayTarget, nil))
			}
		}
	}
	return rules
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

func addresses(selectors []string, nodes []*tailcfg.Node) []string {
	found := []string{}
	for _, node := range nodes {
		if matches(selectors, node) {
			for _, prefix := range node.Addresses {
				found = append(found, prefix.Addr().String())
			}
		}
	}
	return found
}

func matches(selectors []string, node *tailcfg.Node) bool {
	return slices.ContainsFunc(selectors, func(selector string) bool {
		if selector == "*" || slices.Contains(node.Tags, selector) {
			return true
		}
		if selector == "autogroup:member" {
			return len(node.Tags) == 0
		}
		ip, err := netip.ParseAddr(selector)
		return err == nil && slices.ContainsFunc(node.Addresses, func(p netip.Prefix) bool { return p.Addr() == ip })
	})
}

// policyFile is the policy in force, and a signal that it changed.
type policyFile struct {
	current atomic.Pointer[Policy]
	changed chan struct{}
}

func watchPolicy(ctx context.Context, path string) (*policyFile, error) {
	file := &policyFile{changed: make(chan struct{}, 1)}
	if path == "" {
		file.current.Store(new(Policy))
		return file, nil
	}
	last, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	policy, err := parsePolicy(last)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	file.current.Store(policy)
	go func() {
		for tick := time.NewTicker(200 * time.Millisecond); ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			data, err := os.ReadFile(path)
			if err != nil || string(data) == string(last) {
				continue
			}
			last = data
			policy, err := parsePolicy(data)
			if err != nil {
				log.Printf("policy not changed: %v", err)
				continue
			}
			file.current.Store(policy)
			log.Printf("policy changed: %d grants", len(policy.Grants))
			file.changed <- struct{}{}
		}
	}()
	return file, nil
}
