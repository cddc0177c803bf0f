package main

import (
	"fmt"
	"slices"
	"strings"

	"peerrelay.dev/rig/tailnet/api"
)

// Test asserts which HOST:PORT src can reach. It can assert no capability.
type Test struct {
	Src    string   `json:"src"`
	Proto  string   `json:"proto"`
	Accept []string `json:"accept"`
	Deny   []string `json:"deny"`
}

// runTests evaluates the policy's tests, by what it says and not by the devices that there are.
func (p *Policy) runTests() error {
	var failures []api.Complaint
	for _, test := range p.Tests {
		if err := p.checkTag(test.Src); err != nil {
			return err
		}
		failure := api.Complaint{User: test.Src}
		for _, wanted := range []struct {
			verdict      string
			destinations []string
		}{{"Accept", test.Accept}, {"Drop", test.Deny}} {
			for _, destination := range wanted.destinations {
				got, err := p.verdict(test, destination)
				if err != nil {
					return err
				}
				if got != wanted.verdict {
					failure.Errors = append(failure.Errors, fmt.Sprintf("address %q: want: %s, got: %s",
						destination, wanted.verdict, got))
				}
			}
		}
		if len(failure.Errors) > 0 {
			failures = append(failures, failure)
		}
	}
	if len(failures) > 0 {
		return &api.Refusal{Message: "test(s) failed", Data: failures}
	}
	return nil
}

func (p *Policy) verdict(test Test, destination string) (string, error) {
	host, text, err := splitDestination(destination)
	if err != nil {
		return "", err
	}
	if err := p.checkTag(host); err != nil {
		return "", err
	}
	port, err := parsePort(text)
	if err != nil {
		return "", err
	}
	proto := test.Proto
	if proto == "" {
		proto = "tcp"
	}
	accepted := slices.ContainsFunc(p.rules, func(rule rule) bool {
		return p.covers(rule.src, test.Src) && p.covers(rule.dst, host) &&
			slices.ContainsFunc(rule.ports, func(ports ports) bool { return ports.contains(proto, port) })
	})
	if accepted {
		return "Accept", nil
	}
	return "Drop", nil
}

// covers says whether a rule's selectors name everything that an alias of a test names.
func (p *Policy) covers(selectors []string, alias string) bool {
	return slices.ContainsFunc(selectors, func(selector string) bool {
		isUser := strings.Contains(alias, "@") && !strings.HasPrefix(alias, "group:")
		switch {
		case selector == "*" || selector == alias:
			return true
		case selector == "autogroup:tagged":
			return strings.HasPrefix(alias, "tag:")
		case selector == "autogroup:member":
			return isUser || strings.HasPrefix(alias, "group:")
		case strings.HasPrefix(selector, "group:"):
			return isUser && slices.Contains(p.Groups[selector], alias)
		}
		net, err := p.network(selector)
		host, err2 := p.network(alias)
		return err == nil && err2 == nil && net.Overlaps(host) && net.Bits() <= host.Bits()
	})
}
