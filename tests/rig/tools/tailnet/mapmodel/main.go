// Command mapmodel says who may relay after each message of a map stream, by Tailscale's own code:
// messages go through controlclient's map session, and packet filters through wgengine/filter.
//
// Each line of its input is one step, answered by one line of its output:
//
//	{"now": 1767139200, "map": {...}}       a message of the stream
//	{"now": 1767139200, "restart": true}    the stream ends and another one begins
//	{"now": 1767139200}                     time passes
//	{"new": true}                           another device, which knows nothing yet
//
// "now" is the host's time in seconds since 1970. Nothing of it touches the network.
package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"os"
	"time"

	"tailscale.com/control/controlclient"
	"tailscale.com/health"
	"tailscale.com/net/netmon"
	"tailscale.com/net/tsdial"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"
	"tailscale.com/types/netmap"
	"tailscale.com/types/persist"
	"tailscale.com/util/eventbus"
	"tailscale.com/util/zstdframe"
)

type step struct {
	Now     int64           `json:"now"`
	New     bool            `json:"new"`
	Restart bool            `json:"restart"`
	Map     json.RawMessage `json:"map"`
}

// session is one device that follows a control server made of steps.
type session struct {
	client  *controlclient.Direct
	bodies  chan *io.PipeWriter
	netmaps chan *netmap.NetworkMap
	clock   clock
	current *netmap.NetworkMap // nil before the first
	body    *io.PipeWriter
	ended   chan error
}

func main() {
	s := newSession()
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 64<<20)
	out := json.NewEncoder(os.Stdout)
	for in.Scan() {
		var step step
		if err := json.Unmarshal(in.Bytes(), &step); err != nil {
			log.Fatalf("mapmodel: %v", err)
		}
		if step.New {
			s.body.Close()
			s.client.Close()
			s = newSession()
		}
		ended, err := s.take(step)
		if err != nil {
			log.Fatalf("mapmodel: %v", err)
		}
		answer := s.judge(time.Unix(step.Now, 0))
		answer.Ended = ended
		if err := out.Encode(answer); err != nil {
			return
		}
	}
}

func newSession() *session {
	s := &session{
		bodies:  make(chan *io.PipeWriter),
		netmaps: make(chan *netmap.NetworkMap),
	}
	bus := eventbus.New()
	machine := key.NewMachine()
	control := &http.Client{Transport: s}
	client, err := controlclient.NewDirect(controlclient.Options{
		ServerURL:            "http://control.invalid",
		Persist:              persist.Persist{PrivateNodeKey: key.NewNode()},
		GetMachinePrivateKey: func() (key.MachinePrivate, error) { return machine, nil },
		Hostinfo:             &tailcfg.Hostinfo{BackendLogID: "mapmodel"},
		Logf:                 logger.Discard,
		HTTPTestClient:       control,
		NoiseTestClient:      control,
		HealthTracker:        health.NewTracker(bus),
		Dialer:               tsdial.NewDialer(netmon.NewStatic()),
		Bus:                  bus,
	})
	if err != nil {
		log.Fatalf("mapmodel: %v", err)
	}
	s.client = client
	s.begin()
	return s
}

// RoundTrip answers a map request with a body that the steps fill.
func (s *session) RoundTrip(*http.Request) (*http.Response, error) {
	reader, writer := io.Pipe()
	s.bodies <- writer
	return &http.Response{StatusCode: http.StatusOK, Body: reader}, nil
}

// UpdateFullNetmap is called after each message that is no keep-alive.
func (s *session) UpdateFullNetmap(nm *netmap.NetworkMap) { s.netmaps <- nm }

func (s *session) begin() {
	ended := make(chan error, 1)
	go func() { ended <- s.client.PollNetMap(context.Background(), s) }()
	s.ended, s.body = ended, <-s.bodies
}

// take plays a step; ended says that the client gave up the stream because of it.
func (s *session) take(step step) (ended bool, err error) {
	if step.Restart {
		s.body.Close()
		<-s.ended
		s.begin()
	}
	if step.Map == nil {
		return false, nil
	}
	var message tailcfg.MapResponse
	if err := json.Unmarshal(step.Map, &message); err != nil {
		return false, err
	}
	if message.ControlTime != nil && !message.ControlTime.IsZero() {
		s.clock.hear(*message.ControlTime, time.Unix(step.Now, 0))
	}
	frame := zstdframe.AppendEncode(make([]byte, 4), step.Map, zstdframe.FastestCompression)
	binary.LittleEndian.PutUint32(frame, uint32(len(frame)-4))
	if _, err := s.body.Write(frame); err != nil {
		return false, err
	}
	if message.KeepAlive {
		return false, nil
	}
	select {
	case s.current = <-s.netmaps:
		return false, nil
	case <-s.ended:
		s.begin()
		return true, nil
	}
}
