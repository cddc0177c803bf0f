// Command control is the coordination server of the rig's tailnet, with a DERP server on the same
// port and a STUN server. It does with a policy file what the hosted control server does: it refuses
// a policy that does not parse or whose tests fail, lets devices see each other only if a rule
// concerns both, and gives a device the tags that its auth key may give. Auth keys, OAuth clients and
// devices are those of its API, which has the shape of Tailscale's.
//
// Ways in:
//
//	https://ADDR:PORT        control protocol (/key, /ts2021), API (/api/v2) and DERP (/derp)
//	udp ADDR:STUN-PORT       STUN
//	unix ADMIN               what package api lists, and
//	                         GET /nodes
//	                         GET /policy: the text last read, and why it was refused
//	                         POST /attr?name=N&attr=A&set=true|false
//	                         POST /expire?name=N&set=true|false[&in=5s]
//	                         POST /tags?name=N&tags=T,T
//	                         POST /derp?region=N&stalled=true|false
//	                         POST /streams?age=20s: map streams of relays end at that age; 0s for never
//	                         POST /ephemeral: removes ephemeral devices that are not connected
//
// It prints "ready" once it listens. The policy file is read again when it changes; while one is
// refused, the one before stays in force.
package main

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"tailscale.com/net/stunserver"
	"tailscale.com/types/key"
)

type options struct {
	addr4, addr6   string
	port, stunPort int
	cert, key      string
	policy, state  string
	admin          string
	regions        int
	proxyPort      int
}

func main() {
	var o options
	flag.StringVar(&o.addr4, "addr", "", "IPv4 address to listen on, also the DERP node's")
	flag.StringVar(&o.addr6, "addr6", "", "IPv6 address to listen on; empty for none")
	flag.IntVar(&o.port, "port", 443, "TCP port of control and DERP")
	flag.IntVar(&o.stunPort, "stun-port", 3478, "UDP port of STUN")
	flag.StringVar(&o.cert, "cert", "", "TLS certificate chain, PEM; must name the addresses")
	flag.StringVar(&o.key, "key", "", "TLS private key, PEM")
	flag.StringVar(&o.policy, "policy", "", "tailnet policy file, HuJSON")
	flag.StringVar(&o.state, "state", "", "file in which auth keys and credentials outlive a restart; empty for none")
	flag.StringVar(&o.admin, "admin", "", "unix socket of the admin interface")
	flag.IntVar(&o.regions, "regions", 1, "DERP regions; all are served by this process, on ports that follow -port")
	flag.IntVar(&o.proxyPort, "proxy-port", 0, "TCP port of an HTTP proxy; 0 for none")
	flag.Parse()
	log.SetFlags(log.Ltime | log.Lmicroseconds)

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		log.Fatalf("control: %v", err)
	}
}

func run(ctx context.Context, o options) error {
	policy, err := watchPolicy(ctx, o.policy)
	if err != nil {
		return err
	}
	tailnet, err := newTailnet(derpMap(o), policy, o.state)
	if err != nil {
		return err
	}
	go tailnet.followPolicy(ctx)

	control := &protocol{tailnet: tailnet, key: key.NewMachine()}
	certificate, err := tls.LoadX509KeyPair(o.cert, o.key)
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	regions := []*derpRegion{}
	for region := range o.regions {
		mux := http.NewServeMux()
		derp := newDERPRegion()
		derp.handle(mux)
		regions = append(regions, derp)
		if region == 0 {
			mux.Handle("/", control.handler())
		}
		if err := serve(ctx, o, o.port+region, mux, certificate, failed); err != nil {
			return err
		}
	}
	for _, addr := range o.addresses() {
		stun := stunserver.New(ctx)
		if err := stun.Listen(net.JoinHostPort(addr, strconv.Itoa(o.stunPort))); err != nil {
			return err
		}
		go stun.Serve()
	}
	if o.proxyPort != 0 {
		if err := serveProxy(ctx, net.JoinHostPort(o.addr4, strconv.Itoa(o.proxyPort))); err != nil {
			return err
		}
	}
	if o.admin != "" {
		if err := tailnet.serveAdmin(ctx, o.admin, regions); err != nil {
			return err
		}
	}
	fmt.Println("ready")
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	}
}

func (o options) addresses() []string {
	if o.addr6 == "" {
		return []string{o.addr4}
	}
	return []string{o.addr4, o.addr6}
}

func serve(ctx context.Context, o options, port int, handler http.Handler, certificate tls.Certificate, failed chan<- error) error {
	for _, addr := range o.addresses() {
		listener, err := net.Listen("tcp", net.JoinHostPort(addr, strconv.Itoa(port)))
		if err != nil {
			return err
		}
		// The control protocol upgrades an HTTP/1.1 connection, so HTTP/2 is not offered.
		config := &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"http/1.1"}}
		web := &http.Server{Handler: handler, ErrorLog: log.New(os.Stderr, "http: ", 0), ConnContext: withConn}
		stallable := stallableListener{listener}
		go func() { failed <- web.Serve(tls.NewListener(stallable, config)) }()
		go func() {
			<-ctx.Done()
			web.Close()
		}()
	}
	return nil
}
