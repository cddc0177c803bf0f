package main

import (
	"fmt"
	"strconv"
	"strings"

	"tailscale.com/tailcfg"
)

// ports is a range of ports, of one protocol or of all of them.
type ports struct {
	proto       string
	first, last uint16
}

var (
	everyPort = []ports{{last: 65535}}
	// numbers of protocols as in an IP header.
	numbers = map[string]int{"icmp": 1, "tcp": 6, "udp": 17, "ipv6-icmp": 58, "sctp": 132}
)

// splitDestination splits HOST:PORTS; an IPv6 address has brackets.
func splitDestination(text string) (host, ports string, err error) {
	at := strings.LastIndexByte(text, ':')
	if at < 1 {
		return "", "", fmt.Errorf("%q has no port", text)
	}
	return strings.Trim(text[:at], "[]"), text[at+1:], nil
}

// splitProtocol splits an entry of ip, such as tcp:443.
func splitProtocol(text string) (proto, ports string) {
	if proto, ports, found := strings.Cut(text, ":"); found {
		return proto, ports
	}
	return "", text
}

// parsePorts reads "*", or a list of ports and ranges.
func parsePorts(proto, text string) ([]ports, error) {
	if _, known := numbers[proto]; proto != "" && !known {
		return nil, fmt.Errorf("unknown protocol %q", proto)
	}
	var found []ports
	for part := range strings.SplitSeq(text, ",") {
		one := ports{proto: proto, last: 65535}
		if part != "*" {
			first, last, isRange := strings.Cut(part, "-")
			if !isRange {
				last = first
			}
			var err error
			if one.first, err = parsePort(first); err != nil {
				return nil, err
			}
			if one.last, err = parsePort(last); err != nil {
				return nil, err
			}
		}
		found = append(found, one)
	}
	return found, nil
}

func parsePort(text string) (uint16, error) {
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("%q is no port", text)
	}
	return uint16(port), nil
}

func (p ports) contains(proto string, port uint16) bool {
	return (p.proto == "" || p.proto == proto) && p.first <= port && port <= p.last
}

func (p ports) filterRule(sources []string, node *tailcfg.Node) tailcfg.FilterRule {
	rule := tailcfg.FilterRule{SrcIPs: sources}
	if p.proto != "" {
		rule.IPProto = []int{numbers[p.proto]}
	}
	for _, address := range node.Addresses {
		rule.DstPorts = append(rule.DstPorts, tailcfg.NetPortRange{
			IP:    address.Addr().String(),
			Ports: tailcfg.PortRange{First: p.first, Last: p.last},
		})
	}
	return rule
}
