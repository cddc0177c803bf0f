package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"

	"tailscale.com/derp/derpserver"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"
)

// A derpRegion is a DERP server that can stall: its host acknowledges what comes, and the server
// neither reads nor sends. TLS still works, as behind a proxy whose backend hangs.
type derpRegion struct {
	mu      sync.Mutex
	resumed chan struct{} // closed while the region works
}

func newDERPRegion() *derpRegion {
	resumed := make(chan struct{})
	close(resumed)
	return &derpRegion{resumed: resumed}
}

// stall makes the region stall, or work again.
func (r *derpRegion) stall(stalled bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.resumed:
		if stalled {
			r.resumed = make(chan struct{})
		}
	default:
		if !stalled {
			close(r.resumed)
		}
	}
}

func (r *derpRegion) working() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.resumed
}

// handle adds the region's server to mux.
func (r *derpRegion) handle(mux *http.ServeMux) {
	server := derpserver.Handler(derpserver.New(key.NewNode(), logger.Discard))
	mux.HandleFunc("/derp", func(w http.ResponseWriter, req *http.Request) {
		if conn, ok := req.Context().Value(connKey{}).(*stallableConn); ok {
			conn.region.Store(r)
		}
		server.ServeHTTP(w, req)
	})
	mux.HandleFunc("/derp/probe", func(http.ResponseWriter, *http.Request) {})
}

// serveStall is the handler of the admin interface: ?region=N&stalled=true|false.
func serveStall(regions []*derpRegion) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		id, err := strconv.Atoi(req.FormValue("region"))
		if err != nil || id < 1 || id > len(regions) {
			http.Error(w, "no such region", http.StatusNotFound)
			return
		}
		regions[id-1].stall(req.FormValue("stalled") == "true")
	}
}

type connKey struct{}

// withConn remembers the connection below TLS for the handlers of its requests.
func withConn(ctx context.Context, conn net.Conn) context.Context {
	if encrypted, ok := conn.(*tls.Conn); ok {
		return context.WithValue(ctx, connKey{}, encrypted.NetConn())
	}
	return ctx
}

// A stallableListener accepts connections that stall with the region that they belong to.
type stallableListener struct{ net.Listener }

func (l stallableListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &stallableConn{Conn: conn, closed: make(chan struct{})}, nil
}

// A stallableConn belongs to a region from its request for DERP on.
type stallableConn struct {
	net.Conn
	region atomic.Pointer[derpRegion]
	closed chan struct{}
	once   sync.Once
}

func (c *stallableConn) Read(into []byte) (int, error) {
	n, err := c.Conn.Read(into)
	c.wait()
	return n, err
}

func (c *stallableConn) Write(from []byte) (int, error) {
	c.wait()
	return c.Conn.Write(from)
}

func (c *stallableConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

func (c *stallableConn) wait() {
	region := c.region.Load()
	if region == nil {
		return
	}
	select {
	case <-region.working():
	case <-c.closed:
	}
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
