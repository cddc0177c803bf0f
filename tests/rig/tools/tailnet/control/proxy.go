package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
)

// The credentials that the proxy requires.
const proxyUser, proxyPassword = "rig", "through"

// serveProxy serves an HTTP proxy that opens connections for those who know its credentials (CONNECT).
func serveProxy(ctx context.Context, addr string) error {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	go http.Serve(listener, http.HandlerFunc(proxyConnect))
	go func() {
		<-ctx.Done()
		listener.Close()
	}()
	return nil
}

func proxyConnect(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		http.Error(w, "CONNECT only", http.StatusMethodNotAllowed)
		return
	}
	// The header has the form of Authorization.
	r.Header.Set("Authorization", r.Header.Get("Proxy-Authorization"))
	if user, password, ok := r.BasicAuth(); !ok || user != proxyUser || password != proxyPassword {
		w.Header().Set("Proxy-Authenticate", "Basic")
		http.Error(w, "credentials are missing", http.StatusProxyAuthRequired)
		return
	}
	target, err := net.Dial("tcp", r.Host)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer target.Close()
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer client.Close()
	if _, err := client.Write([]byte("HTTP/1.1 200 Connection established\r\n\r\n")); err != nil {
		return
	}
	var both sync.WaitGroup
	both.Go(func() {
		io.Copy(target, buffered)
		target.(*net.TCPConn).CloseWrite()
	})
	both.Go(func() {
		io.Copy(client, target)
		client.(*net.TCPConn).CloseWrite()
	})
	both.Wait()
}
