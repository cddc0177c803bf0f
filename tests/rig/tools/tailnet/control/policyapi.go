package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/tailscale/hujson"
	"peerrelay.dev/rig/tailnet/api"
	"tailscale.com/tailcfg"
)

// TagOwners implements [api.Tailnet].
func (t *tailnet) TagOwners(tag string) ([]string, bool) {
	owners, defined := t.policy.policy().TagOwners[tag]
	return owners, defined
}

// UserOwns implements [api.Tailnet].
func (t *tailnet) UserOwns(login, tag string) bool {
	id, isUser := userID(login)
	return isUser && t.policy.policy().mayGive(authority{owner: id}, tag)
}

// Policy implements [api.Tailnet].
func (t *tailnet) Policy() api.PolicyText { return t.policy.inForce() }

// ReplacePolicy implements [api.Tailnet].
func (t *tailnet) ReplacePolicy(text string, check func(api.PolicyText) error) error {
	return t.policy.replace(text, check)
}

// CheckPolicy implements [api.Tailnet].
func (t *tailnet) CheckPolicy(text string) error {
	_, err := parsePolicy([]byte(text))
	return err
}

// CheckTests implements [api.Tailnet].
func (t *tailnet) CheckTests(tests []byte) error {
	policy := *t.policy.policy()
	policy.Tests = nil
	if err := json.Unmarshal(tests, &policy.Tests); err != nil {
		return err
	}
	return policy.runTests()
}

// PolicyWarnings implements [api.Tailnet]. A name such as group:team@example.com is that of a group of
// an identity provider; this tailnet has none.
func (t *tailnet) PolicyWarnings(text string) []api.Complaint {
	policy, err := parsePolicy([]byte(text))
	if err != nil {
		return nil
	}
	var warnings []api.Complaint
	for _, rule := range policy.rules {
		for _, selector := range slices.Concat(rule.src, rule.dst) {
			_, defined := policy.Groups[selector]
			isSynced := strings.HasPrefix(selector, "group:") && strings.Contains(selector, "@")
			told := slices.ContainsFunc(warnings, func(c api.Complaint) bool { return c.User == selector })
			if isSynced && !defined && !told {
				words := "the identity provider has no such group, and rules ignore it"
				warnings = append(warnings, api.Complaint{User: selector, Warnings: []string{words}})
			}
		}
	}
	return warnings
}

// PreviewPolicy implements [api.Tailnet].
func (t *tailnet) PreviewPolicy(text string, query api.PreviewQuery) ([]api.PreviewMatch, error) {
	policy, err := parsePolicy([]byte(text))
	if err != nil {
		return nil, err
	}
	concerned := func(rule rule) bool { return policy.hasSource(rule, query.User) }
	if query.Destination != "" {
		host, text, err := splitDestination(query.Destination)
		if err != nil {
			return nil, err
		}
		port, err := parsePort(text)
		if err != nil {
			return nil, err
		}
		owner := t.addressOwner(host)
		concerned = func(rule rule) bool {
			isDestination := policy.covers(rule.dst, host) || owner != nil && policy.matches(rule.dst, owner)
			return isDestination && slices.ContainsFunc(rule.ports, func(ports ports) bool {
				return ports.first <= port && port <= ports.last
			})
		}
	}
	lines := ruleLines(text)
	var matches []api.PreviewMatch
	for i, rule := range policy.rules {
		if len(rule.ports) == 0 || !concerned(rule) {
			continue
		}
		match := api.PreviewMatch{Users: rule.src}
		if i < len(lines) {
			match.LineNumber = lines[i]
		}
		for _, dst := range rule.dst {
			for _, ports := range rule.ports {
				match.Ports = append(match.Ports, dst+":"+ports.String())
			}
		}
		matches = append(matches, match)
	}
	return matches, nil
}

func (p *Policy) hasSource(rule rule, login string) bool {
	return p.covers(rule.src, login) || slices.ContainsFunc(rule.src, func(selector string) bool {
		return isIn(selector, login)
	})
}

// addressOwner returns a copy of the device with this address, or nil.
func (t *tailnet) addressOwner(address string) *tailcfg.Node {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, node := range t.sortedNodes() {
		for _, prefix := range node.Addresses {
			if prefix.Addr().String() == address {
				return node
			}
		}
	}
	return nil
}

func (p ports) String() string {
	switch {
	case p.first == 0 && p.last == 65535:
		return "*"
	case p.first == p.last:
		return fmt.Sprint(p.first)
	}
	return fmt.Sprintf("%d-%d", p.first, p.last)
}

// ruleLines returns the line of each rule of a policy, in the order of Policy.rules.
func ruleLines(text string) (lines []int) {
	value, err := hujson.Parse([]byte(text))
	if err != nil {
		return nil
	}
	sections, isObject := value.Value.(*hujson.Object)
	if !isObject {
		return nil
	}
	for _, wanted := range []string{"acls", "grants"} {
		for _, section := range sections.Members {
			name, _ := section.Name.Value.(hujson.Literal)
			rules, isList := section.Value.Value.(*hujson.Array)
			if !isList || !strings.EqualFold(name.String(), wanted) {
				continue
			}
			for _, rule := range rules.Elements {
				lines = append(lines, 1+strings.Count(text[:rule.StartOffset], "\n"))
			}
		}
	}
	return lines
}
