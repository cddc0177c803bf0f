// Command control is the coordination server of the rig's tailnet: Tailscale's own testcontrol over
// TLS, with tags and grants from a policy file, a DERP server on the same port and a STUN server.
//
// Ways in:
//
//	https://ADDR:PORT        control protocol (/key, /ts2021) and DERP (/derp)
//	udp ADDR:STUN-PORT       STUN
//	unix ADMIN               GET /nodes, POST /attr?name=N&attr=A&set=true|false, POST /expire?name=N&set=true|false
//
// It prints "ready" once it listens. The policy file is read again when it changes; one that does
// not parse is reported and the one before stays in force.
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
	"strings"
	"syscall"

	"tailscale.com/derp/derpserver"
	"tailscale.com/net/stunserver"
	"tailscale.com/tailcfg"
	"tailscale.com/tstest/integration/testcontrol"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"
)

type options struct {
	addr4, addr6    string
	port, stunPort  int
	cert, key       string
	policy, authKey string
	admin           string
	regions         int
}

func main() {
	var o options
	flag.StringVar(&o.addr4, "addr", "", "IPv4 address to listen on, also the DERP node's")
	flag.StringVar(&o.addr6, "addr6", "", "IPv6 address to listen on; empty for none")
	flag.IntVar(&o.port, "port", 443, "TCP port of control and DERP")
	flag.IntVar(&o.stunPort, "stun-port", 3478, "UDP port of STUN")
	flag.StringVar(&o.cert, "cert", "", "TLS certificate chain, PEM; must name the addresses")
	flag.StringVar(&o.key, "key", "", "TLS private key, PEM")
	flag.StringVar(&o.policy, "policy", "", "tailnet policy file, HuJSON: tagOwners and grants")
	flag.StringVar(&o.authKey, "auth-key-file", "", "file with the only auth key that may register; empty lets everyone in")
	flag.StringVar(&o.admin, "admin", "", "unix socket of the admin interface")
	flag.IntVar(&o.regions, "regions", 1, "DERP regions; all are served by this process, on ports that follow -port")
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
	authKey := ""
	if o.authKey != "" {
		data, err := os.ReadFile(o.authKey)
		if err != nil {
			return err
		}
		authKey = strings.TrimSpace(string(data))
	}
	server := &testcontrol.Server{
		Logf:                    logger.Discard,
		DERPMap:                 derpMap(o),
		AllNodesSameUser:        true,
		AllOnline:               true,
		RequireAuthKey:          authKey,
		MagicDNSDomain:          "rig.ts.net",
		DNSConfig:               &tailcfg.DNSConfig{},
		TagOwners:               map[string][]string{},
		DefaultNodeCapabilities: &tailcfg.NodeCapMap{},
		ExplicitBaseURL:         fmt.Sprintf("https://%s", net.JoinHostPort(o.addr4, strconv.Itoa(o.port))),
	}
	tailnet := newTailnet(server, policy)
	server.AltMapStream = tailnet.serveMap
	go tailnet.followPolicy(ctx)

	certificate, err := tls.LoadX509KeyPair(o.cert, o.key)
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	for region := range o.regions {
		mux := http.NewServeMux()
		derp := derpserver.New(key.NewNode(), logger.Discard)
		mux.Handle("/derp", derpserver.Handler(derp))
		mux.HandleFunc("/derp/probe", func(w http.ResponseWriter, _ *http.Request) {})
		if region == 0 {
			// testcontrol panics on a path that it does not know.
			for _, path := range []string{"/key", "/ts2021", "/machine/", "/c2n/", "/generate_204"} {
				mux.Handle(path, server)
			}
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
	if o.admin != "" {
		if err := tailnet.serveAdmin(ctx, o.admin); err != nil {
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
		web := &http.Server{Handler: handler, ErrorLog: log.New(os.Stderr, "http: ", 0)}
		go func() { failed <- web.Serve(tls.NewListener(listener, config)) }()
		go func() {
			<-ctx.Done()
			web.Close()
		}()
	}
	return nil
}

func derpMap(o options) *tailcfg.DERPMap {
	regions := map[int]*tailcfg.DERPRegion{}
	for i := range o.regions {
		id := i + 1
		regions[id] = &tailcfg.DERPRegion{
			RegionID:   id,
			RegionCode: fmt.Sprintf("rig%d", id),
			RegionName: fmt.Sprintf("Rig %d", id),
			Nodes: []*tailcfg.DERPNode{{
				Name:     fmt.Sprintf("%da", id),
				RegionID: id,
				HostName: o.addr4,
				IPv4:     o.addr4,
				IPv6:     o.addr6,
				DERPPort: o.port + i,
				STUNPort: o.stunPort,
			}},
		}
	}
	return &tailcfg.DERPMap{Regions: regions, OmitDefaultRegions: true}
}
