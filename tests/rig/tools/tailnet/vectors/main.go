// Command vectors prints what Tailscale's own packages make of the peer relay protocol, as JSON: the
// bytes that crates/relay-proto must write and read. Nothing in it is random, so that two runs on
// one version of tailscale.com print the same:
//
//	go run ./vectors > ../../../../crates/relay-proto/tests/golden/vectors.json
//
// With the argument map, it prints a message of the map stream in which everything is set that
// src/relay/tailnet/wire.rs reads, by the names that Tailscale's own types give it:
//
//	go run ./vectors map > ../../../../src/relay/tailnet/wire/map.json
package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"time"

	"go4.org/mem"
	"golang.org/x/crypto/nacl/box"
	"tailscale.com/disco"
	"tailscale.com/net/packet"
	"tailscale.com/types/key"
)

// vectors is the whole output. All byte strings are hex.
type vectors struct {
	Source   string         `json:"source"`
	Keys     []keyVector    `json:"keys"`
	Pairs    []pairVector   `json:"pairs"`
	Messages []message      `json:"messages"`
	Parses   []parseVector  `json:"parses"`
	Frames   []frameVector  `json:"frames"`
	Geneve   []geneveVector `json:"geneve"`
}

// keyVector is a disco key; Short is how Tailscale prints it.
type keyVector struct {
	Name    string `json:"name"`
	Private string `json:"private"`
	Public  string `json:"public"`
	Short   string `json:"short"`

	private key.DiscoPrivate
}

// pairVector is two keys by name, in the order they are given and in the order they are kept.
type pairVector struct {
	Given  [2]string `json:"given"`
	Sorted [2]string `json:"sorted"`
}

func main() {
	log.SetFlags(0)
	if slices.Equal(os.Args[1:], []string{"map"}) {
		print(makeMap())
		return
	}
	keys := makeKeys("client-a", "client-b", "client-c", "relay-node", "relay-server")
	messages := makeMessages(keys)
	out := vectors{
		Source:   "tailscale.com " + tailscaleVersion(),
		Keys:     keys,
		Pairs:    makePairs(keys),
		Messages: messages,
		Parses:   makeParses(messages),
		Frames:   makeFrames(keys, messages),
		Geneve:   makeGeneve(),
	}
	print(out)
}

func print(out any) {
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", " ")
	if err := encoder.Encode(out); err != nil {
		log.Fatal(err)
	}
}

func tailscaleVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		log.Fatal("built without module information")
	}
	for _, module := range info.Deps {
		if module.Path == "tailscale.com" {
			return module.Version
		}
	}
	log.Fatal("tailscale.com is not among the modules")
	return ""
}

func makeKeys(names ...string) []keyVector {
	var keys []keyVector
	for i, name := range names {
		raw := pattern(byte(0x31*(i+1)), 32)
		private := key.DiscoPrivateFromRaw32(mem.B(raw))
		keys = append(keys, keyVector{
			Name:    name,
			Private: hex.EncodeToString(raw),
			Public:  publicHex(private.Public()),
			Short:   private.Public().ShortString(),
			private: private,
		})
	}
	return keys
}

func makePairs(keys []keyVector) []pairVector {
	var pairs []pairVector
	for _, a := range keys {
		for _, b := range keys {
			if a.Name == b.Name {
				continue
			}
			sorted := key.NewSortedPairOfDiscoPublic(a.private.Public(), b.private.Public()).Get()
			pairs = append(pairs, pairVector{
				Given:  [2]string{a.Public, b.Public},
				Sorted: [2]string{publicHex(sorted[0]), publicHex(sorted[1])},
			})
		}
	}
	return pairs
}

// message is one relay message: its fields, and its bytes before sealing.
type message struct {
	Name      string        `json:"name"`
	Type      string        `json:"type"`
	Bind      *bindFields   `json:"bind,omitempty"`
	Request   *requestField `json:"request,omitempty"`
	Response  *uint32       `json:"response_generation,omitempty"`
	Endpoint  *endpoint     `json:"endpoint,omitempty"`
	Plaintext string        `json:"plaintext"`
}

type bindFields struct {
	VNI        uint32 `json:"vni"`
	Generation uint32 `json:"generation"`
	Remote     string `json:"remote"`
	Challenge  string `json:"challenge"`
}

type requestField struct {
	Clients    [2]string `json:"clients"`
	Generation uint32    `json:"generation"`
}

type endpoint struct {
	Server         string    `json:"server"`
	Clients        [2]string `json:"clients"`
	LamportID      uint64    `json:"lamport"`
	VNI            uint32    `json:"vni"`
	BindLifetime   uint64    `json:"bind_lifetime_ns"`
	SteadyLifetime uint64    `json:"steady_lifetime_ns"`
	Addresses      []string  `json:"addresses"`
}

func makeMessages(keys []keyVector) []message {
	var out []message
	out = append(out, makeBinds(keys)...)
	out = append(out, makeRequests(keys)...)
	return append(out, makeEndpoints(keys)...)
}

func makeBinds(keys []keyVector) []message {
	a, b := keys[0].private.Public(), keys[1].private.Public()
	commons := []struct {
		name   string
		common disco.BindUDPRelayEndpointCommon
	}{
		{"zero", disco.BindUDPRelayEndpointCommon{}},
		{"first", disco.BindUDPRelayEndpointCommon{VNI: 1, Generation: 1, RemoteKey: b}},
		{"challenged", disco.BindUDPRelayEndpointCommon{
			VNI: 0x010203, Generation: 0x04050607, RemoteKey: a, Challenge: [32]byte(pattern(0xa0, 32))}},
		{"greatest", disco.BindUDPRelayEndpointCommon{
			VNI: 1<<24 - 1, Generation: 1<<32 - 1, RemoteKey: b, Challenge: [32]byte(bytes.Repeat([]byte{0xff}, 32))}},
		{"vni-over-24-bits", disco.BindUDPRelayEndpointCommon{VNI: 1<<32 - 1, Generation: 7, RemoteKey: a}},
	}
	var out []message
	for _, c := range commons {
		for kind, m := range map[string]disco.Message{
			"bind":      &disco.BindUDPRelayEndpoint{BindUDPRelayEndpointCommon: c.common},
			"challenge": &disco.BindUDPRelayEndpointChallenge{BindUDPRelayEndpointCommon: c.common},
			"answer":    &disco.BindUDPRelayEndpointAnswer{BindUDPRelayEndpointCommon: c.common},
		} {
			out = append(out, message{
				Name: c.name,
				Type: kind,
				Bind: &bindFields{
					VNI:        c.common.VNI,
					Generation: c.common.Generation,
					Remote:     publicHex(c.common.RemoteKey),
					Challenge:  hex.EncodeToString(c.common.Challenge[:]),
				},
				Plaintext: marshal(m),
			})
		}
	}
	slices.SortFunc(out, func(x, y message) int { return bytes.Compare([]byte(x.Plaintext), []byte(y.Plaintext)) })
	return out
}

func makeRequests(keys []keyVector) []message {
	a, b, c := keys[0].private.Public(), keys[1].private.Public(), keys[2].private.Public()
	var out []message
	for _, r := range []struct {
		name    string
		request disco.AllocateUDPRelayEndpointRequest
	}{
		{"zero", disco.AllocateUDPRelayEndpointRequest{}},
		{"a-b", disco.AllocateUDPRelayEndpointRequest{ClientDisco: [2]key.DiscoPublic{a, b}, Generation: 1}},
		{"b-a", disco.AllocateUDPRelayEndpointRequest{ClientDisco: [2]key.DiscoPublic{b, a}, Generation: 0x01020304}},
		{"c-c", disco.AllocateUDPRelayEndpointRequest{ClientDisco: [2]key.DiscoPublic{c, c}, Generation: 1<<32 - 1}},
	} {
		out = append(out, message{
			Name: r.name,
			Type: "allocate-request",
			Request: &requestField{
				Clients:    [2]string{publicHex(r.request.ClientDisco[0]), publicHex(r.request.ClientDisco[1])},
				Generation: r.request.Generation,
			},
			Plaintext: marshal(&r.request),
		})
	}
	return out
}

func makeEndpoints(keys []keyVector) []message {
	a, b, c := keys[0].private.Public(), keys[1].private.Public(), keys[2].private.Public()
	server := keys[4].private.Public()
	pair := key.NewSortedPairOfDiscoPublic(a, b).Get()
	v4 := netip.MustParseAddrPort("203.0.113.10:40000")
	v6 := netip.MustParseAddrPort("[2001:db8::10]:40000")
	var many []netip.AddrPort
	for i := range 40 {
		many = append(many, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i), 1}), uint16(40000+i)))
	}
	var out []message
	for _, e := range []struct {
		name       string
		generation uint32
		endpoint   disco.UDPRelayEndpoint
	}{
		{"as-the-go-relay", 1, disco.UDPRelayEndpoint{
			ServerDisco: server, ClientDisco: pair, LamportID: 1, VNI: 1,
			BindLifetime: 30 * time.Second, SteadyStateLifetime: 5 * time.Minute,
			AddrPorts: []netip.AddrPort{v4, v6}}},
		{"one-ipv4", 0, disco.UDPRelayEndpoint{
			ServerDisco: server, ClientDisco: pair, LamportID: 0x0102030405060708, VNI: 0x0a0b0c,
			BindLifetime: 1, SteadyStateLifetime: 0x1112131415161718, AddrPorts: []netip.AddrPort{v4}}},
		{"one-ipv6", 1<<32 - 1, disco.UDPRelayEndpoint{
			ServerDisco: server, ClientDisco: key.NewSortedPairOfDiscoPublic(c, a).Get(),
			LamportID: 1<<64 - 1, VNI: 1<<24 - 1,
			BindLifetime: 1<<63 - 1, SteadyStateLifetime: 0, AddrPorts: []netip.AddrPort{v6}}},
		{"odd-addresses", 7, disco.UDPRelayEndpoint{
			ServerDisco: server, ClientDisco: pair, LamportID: 2, VNI: 2,
			AddrPorts: []netip.AddrPort{
				netip.MustParseAddrPort("0.0.0.0:0"), netip.MustParseAddrPort("255.255.255.255:65535"),
				netip.MustParseAddrPort("[::]:0"), netip.MustParseAddrPort("[::1]:1"),
				netip.MustParseAddrPort("[fe80::1]:9"), netip.MustParseAddrPort("[64:ff9b::a00:1]:53")}}},
		{"forty-addresses", 9, disco.UDPRelayEndpoint{
			ServerDisco: server, ClientDisco: pair, LamportID: 3, VNI: 3,
			BindLifetime: time.Minute, SteadyStateLifetime: time.Hour, AddrPorts: many}},
	} {
		out = append(out, message{
			Name: e.name, Type: "call-me-maybe-via", Endpoint: endpointFields(e.endpoint),
			Plaintext: marshal(&disco.CallMeMaybeVia{UDPRelayEndpoint: e.endpoint}),
		}, message{
			Name: e.name, Type: "allocate-response", Endpoint: endpointFields(e.endpoint), Response: &e.generation,
			Plaintext: marshal(&disco.AllocateUDPRelayEndpointResponse{Generation: e.generation, UDPRelayEndpoint: e.endpoint}),
		})
	}
	return out
}

func endpointFields(e disco.UDPRelayEndpoint) *endpoint {
	fields := endpoint{
		Server:         publicHex(e.ServerDisco),
		Clients:        [2]string{publicHex(e.ClientDisco[0]), publicHex(e.ClientDisco[1])},
		LamportID:      e.LamportID,
		VNI:            e.VNI,
		BindLifetime:   uint64(e.BindLifetime),
		SteadyLifetime: uint64(e.SteadyStateLifetime),
	}
	for _, address := range e.AddrPorts {
		fields.Addresses = append(fields.Addresses, address.String())
	}
	return &fields
}

// parseVector is a plaintext that no stock program writes, and what disco.Parse makes of it: Again
// is the message it read, marshaled; Empty that it read the zero message of the type.
type parseVector struct {
	Name      string `json:"name"`
	Plaintext string `json:"plaintext"`
	Refused   bool   `json:"refused"`
	Empty     bool   `json:"empty"`
	Again     string `json:"again,omitempty"`
}

func makeParses(messages []message) []parseVector {
	var out []parseVector
	add := func(name string, plaintext []byte) {
		v := parseVector{Name: name, Plaintext: hex.EncodeToString(plaintext)}
		switch parsed, err := disco.Parse(plaintext); {
		case err != nil:
			v.Refused = true
		default:
			v.Again = marshal(parsed)
			v.Empty = len(bytes.Trim(decode(v.Again)[2:], "\x00")) == 0
		}
		out = append(out, v)
	}
	add("nothing", nil)
	add("type alone", []byte{4})
	add("unknown type", append([]byte{0x0a, 0}, pattern(1, 200)...))
	seen := map[string]bool{}
	for _, m := range messages {
		if seen[m.Type] || m.Name == "zero" || m.Name == "forty-addresses" {
			continue
		}
		seen[m.Type] = true
		plaintext := decode(m.Plaintext)
		add(m.Type+" without body", plaintext[:2])
		add(m.Type+" short of a byte", plaintext[:len(plaintext)-1])
		add(m.Type+" and a byte more", append(slices.Clone(plaintext), 0xee))
		add(m.Type+" and 18 bytes more", append(slices.Clone(plaintext), pattern(0x51, 18)...))
		versioned := slices.Clone(plaintext)
		versioned[1] = 1
		add(m.Type+" of version 1", versioned)
		if m.Endpoint != nil {
			add(m.Type+" without address", plaintext[:len(plaintext)-18*len(m.Endpoint.Addresses)])
		}
	}
	return out
}

// frameVector is a sealed disco frame. Key names say who seals it for whom.
type frameVector struct {
	Message   string `json:"message"`
	From      string `json:"from"`
	To        string `json:"to"`
	Nonce     string `json:"nonce"`
	Plaintext string `json:"plaintext"`
	Frame     string `json:"frame"`
}

func makeFrames(keys []keyVector, messages []message) []frameVector {
	var out []frameVector
	for i, m := range messages {
		from, to := keys[i%2], keys[4]
		switch m.Type {
		case "challenge":
			from, to = to, from
		case "allocate-request":
			to = keys[3]
		case "allocate-response":
			from, to = keys[3], from
		case "call-me-maybe-via":
			to = keys[1-i%2]
		}
		nonce := [24]byte(pattern(byte(i), 24))
		out = append(out, frameVector{
			Message:   m.Type + " " + m.Name,
			From:      from.Name,
			To:        to.Name,
			Nonce:     hex.EncodeToString(nonce[:]),
			Plaintext: m.Plaintext,
			Frame:     hex.EncodeToString(seal(from, to, nonce, decode(m.Plaintext))),
		})
	}
	return out
}

// seal does what magicsock does around key.DiscoShared.Seal, which draws its own nonce; so it calls
// what Seal calls, and checks that the receiver opens it.
func seal(from, to keyVector, nonce [24]byte, plaintext []byte) []byte {
	public := to.private.Public().Raw32()
	private := [32]byte(decode(from.Private))
	sealed := box.Seal(nonce[:], plaintext, &nonce, &public, &private)
	opened, ok := to.private.Shared(from.private.Public()).Open(sealed)
	if !ok || !bytes.Equal(opened, plaintext) {
		log.Fatal("key.DiscoShared does not open what box.Seal made")
	}
	frame := append([]byte(disco.Magic), from.private.Public().AppendTo(nil)...)
	frame = append(frame, sealed...)
	if source, ok := disco.Source(frame); !ok || hex.EncodeToString(source) != from.Public {
		log.Fatal("disco.Source does not know the frame")
	}
	return frame
}

// geneveVector is a header and what packet.GeneveHeader reads from it. Written tells that Encode
// made it of these fields; otherwise its bytes are such as no stock program writes.
type geneveVector struct {
	Header   string `json:"header"`
	Written  bool   `json:"written"`
	Version  uint8  `json:"version"`
	Control  bool   `json:"control"`
	Protocol uint16 `json:"protocol"`
	VNI      uint32 `json:"vni"`
}

func makeGeneve() []geneveVector {
	var out []geneveVector
	for _, vni := range []uint32{1, 0xff, 0x010203, 0x2112a4, 1<<24 - 1} {
		for _, protocol := range []uint16{packet.GeneveProtocolDisco, packet.GeneveProtocolWireGuard, 0x6558} {
			for _, control := range []bool{false, true} {
				header := packet.GeneveHeader{Protocol: protocol, Control: control}
				header.VNI.Set(vni)
				encoded := make([]byte, packet.GeneveFixedHeaderLength)
				if err := header.Encode(encoded); err != nil {
					log.Fatal(err)
				}
				out = append(out, readGeneve(encoded, true))
			}
		}
	}
	for _, odd := range []string{
		"0000000000000000", "80807a1100000100", "40007a1200000100", "c0ffffffffffffff", "3f807a1100000100",
		"007f7a1200000100", "00007a12000001ff", "00007a12000000ff", "010100002112a442", "ff00000000000100",
	} {
		out = append(out, readGeneve(decode(odd), false))
	}
	return out
}

func readGeneve(encoded []byte, written bool) geneveVector {
	var header packet.GeneveHeader
	if err := header.Decode(encoded); err != nil {
		log.Fatal(err)
	}
	return geneveVector{
		Header:   hex.EncodeToString(encoded),
		Written:  written,
		Version:  header.Version,
		Control:  header.Control,
		Protocol: header.Protocol,
		VNI:      header.VNI.Get(),
	}
}

func marshal(m disco.Message) string { return hex.EncodeToString(m.AppendMarshal(nil)) }

func publicHex(public key.DiscoPublic) string {
	return fmt.Sprintf("%x", public.AppendTo(nil))
}

// pattern is n bytes that differ from their neighbours.
func pattern(start byte, n int) []byte {
	out := make([]byte, n)
	for i := range out {
		out[i] = start + 7*byte(i)
	}
	return out
}

func decode(text string) []byte {
	out, err := hex.DecodeString(text)
	if err != nil {
		log.Fatal(err)
	}
	return out
}
