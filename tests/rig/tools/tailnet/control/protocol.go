package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"log"
	"net/http"

	"golang.org/x/net/http2"
	"tailscale.com/control/controlhttp/controlhttpserver"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
	"tailscale.com/util/zstdframe"
)

// messageLimit bounds what a device may send at once, in bytes.
const messageLimit = 1 << 20

// protocol speaks the control protocol: HTTP/2 within Noise, after an upgrade.
type protocol struct {
	tailnet *tailnet
	key     key.MachinePrivate
}

func (p *protocol) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/key", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(&tailcfg.OverTLSPublicKeyResponse{PublicKey: p.key.Public()})
	})
	mux.HandleFunc("/ts2021", p.upgrade)
	mux.HandleFunc("/generate_204", noContent)
	mux.Handle("/api/v2/", p.tailnet.api.Handler())
	return mux
}

func noContent(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	w.WriteHeader(http.StatusNoContent)
}

func (p *protocol) upgrade(w http.ResponseWriter, r *http.Request) {
	conn, err := controlhttpserver.AcceptHTTP(r.Context(), w, r, p.key, nil)
	if err != nil {
		log.Printf("no upgrade: %v", err)
		return
	}
	defer conn.Close()
	machine := conn.Peer()
	mux := http.NewServeMux()
	mux.HandleFunc("/machine/update-health", noContent)
	mux.HandleFunc("/machine/register", func(w http.ResponseWriter, r *http.Request) {
		var req tailcfg.RegisterRequest
		if read(w, r, &req) {
			json.NewEncoder(w).Encode(p.tailnet.register(machine, &req))
		}
	})
	mux.HandleFunc("/machine/map", func(w http.ResponseWriter, r *http.Request) {
		var req tailcfg.MapRequest
		if read(w, r, &req) {
			p.tailnet.serveMap(r.Context(), &mapWriter{w, req.Compress != ""}, machine, &req)
		}
	})
	p.tailnet.lockRoutes(mux)
	var server http2.Server
	server.ServeConn(conn, &http2.ServeConnOpts{
		Context:    context.WithoutCancel(r.Context()),
		BaseConfig: &http.Server{Handler: p.tailnet.api.Faults.Wrap(mux)},
	})
}

func read(w http.ResponseWriter, r *http.Request, request any) bool {
	if err := json.NewDecoder(io.LimitReader(r.Body, messageLimit)).Decode(request); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

// mapWriter writes messages of a map stream: a length of four bytes, and JSON, maybe compressed.
type mapWriter struct {
	http     http.ResponseWriter
	compress bool
}

func (w *mapWriter) send(message *tailcfg.MapResponse) error {
	body, err := json.Marshal(message)
	if err != nil {
		return err
	}
	if w.compress {
		body = zstdframe.AppendEncode(nil, body, zstdframe.FastestCompression)
	}
	size := binary.LittleEndian.AppendUint32(nil, uint32(len(body)))
	if _, err := w.http.Write(append(size, body...)); err != nil {
		return err
	}
	w.http.(http.Flusher).Flush()
	return nil
}
