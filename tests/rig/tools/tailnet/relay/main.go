// Command relay is Tailscale's own relay server (package net/udprelay) without a tailnet: the
// baseline of `cargo dev bench relay`, and the reference of `cargo dev compare`.
//
// Allocation requests come on standard input instead of over DERP, as hexadecimal lines that hold
// the sealed frame; each is answered by one line, which is empty when the relay is silent. The line
// "settle" collects garbage and returns memory, and is answered by an empty line. The line "session"
// and a VNI is answered by address, packets and bytes of the smaller disco key's client and of the
// other's, with "-" for an address that is not bound; by an empty line when there is no such
// session. It prints "ready", the disco key to seal requests for, and the port; it ends with its
// standard input.
package main

import (
	"bufio"
	"encoding/hex"
	"flag"
	"fmt"
	"log"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"go4.org/mem"
	"tailscale.com/disco"
	"tailscale.com/net/udprelay"
	"tailscale.com/net/udprelay/status"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"
	"tailscale.com/types/views"
	"tailscale.com/util/usermetric"
)

func main() {
	port := flag.Uint("port", 0, "UDP port")
	addresses := flag.String("addresses", "", "addresses to advertise, IP:PORT separated by commas")
	flag.Parse()
	server, err := udprelay.NewServer(logger.Discard, uint16(*port), true, new(usermetric.Registry), nil)
	if err != nil {
		log.Fatalf("relay: %v", err)
	}
	var static []netip.AddrPort
	for _, address := range strings.Split(*addresses, ",") {
		static = append(static, netip.MustParseAddrPort(address))
	}
	server.SetStaticAddrPorts(views.SliceOf(static))

	node := key.NewDisco()
	public := node.Public()
	fmt.Printf("ready %x %d\n", public.AppendTo(nil), *port)
	allocator := allocator{server, node, map[key.DiscoPublic]key.DiscoShared{}}
	in, out := bufio.NewReader(os.Stdin), bufio.NewWriter(os.Stdout)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimSpace(line)
		if line == "settle" {
			runtime.GC()
			debug.FreeOSMemory()
			fmt.Fprintln(out)
		} else if vni, ok := strings.CutPrefix(line, "session "); ok {
			fmt.Fprintln(out, session(server, vni))
		} else {
			frame, _ := hex.DecodeString(line)
			fmt.Fprintf(out, "%x\n", allocator.answer(frame))
		}
		if in.Buffered() == 0 {
			out.Flush()
		}
	}
}

func session(server *udprelay.Server, vni string) string {
	number, err := strconv.ParseUint(vni, 10, 32)
	for _, session := range server.GetSessions() {
		if err == nil && session.VNI == uint32(number) {
			return leg(session.Client1) + " " + leg(session.Client2)
		}
	}
	return ""
}

func leg(client status.ClientInfo) string {
	address := "-"
	if client.Endpoint.IsValid() {
		address = client.Endpoint.String()
	}
	return fmt.Sprintf("%s %d %d", address, client.PacketsTx, client.BytesTx)
}

// allocator does what magicsock does with a request: one shared key for each sender, kept.
type allocator struct {
	server *udprelay.Server
	node   key.DiscoPrivate
	shared map[key.DiscoPublic]key.DiscoShared
}

func (a *allocator) answer(frame []byte) []byte {
	source, ok := disco.Source(frame)
	if !ok {
		return nil
	}
	sender := key.DiscoPublicFromRaw32(mem.B(source))
	shared, ok := a.shared[sender]
	if !ok {
		shared = a.node.Shared(sender)
		a.shared[sender] = shared
	}
	plaintext, ok := shared.Open(frame[len(disco.Magic)+key.DiscoPublicRawLen:])
	if !ok {
		return nil
	}
	message, err := disco.Parse(plaintext)
	request, ok := message.(*disco.AllocateUDPRelayEndpointRequest)
	if err != nil || !ok || !slices.Contains(request.ClientDisco[:], sender) {
		return nil
	}
	e, err := a.server.AllocateEndpoint(request.ClientDisco[0], request.ClientDisco[1])
	if err != nil {
		return nil
	}
	response := &disco.AllocateUDPRelayEndpointResponse{
		Generation: request.Generation,
		UDPRelayEndpoint: disco.UDPRelayEndpoint{
			ServerDisco:         e.ServerDisco,
			ClientDisco:         e.ClientDisco,
			LamportID:           e.LamportID,
			VNI:                 e.VNI,
			BindLifetime:        e.BindLifetime.Duration,
			SteadyStateLifetime: e.SteadyStateLifetime.Duration,
			AddrPorts:           e.AddrPorts,
		},
	}
	public := a.node.Public()
	out := public.AppendTo([]byte(disco.Magic))
	return append(out, shared.Seal(response.AppendMarshal(nil))...)
}
