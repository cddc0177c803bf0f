package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"peerrelay.dev/rig/tailnet/api"
	client "tailscale.com/client/tailscale/v2"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

const testPolicy = `{
  // An operator, and relays that it owns.
  "tagOwners": {
    "tag:op":      ["autogroup:admin"],
    "tag:relay-a": ["tag:op"],
    "tag:relay-b": ["tag:op"],
    "tag:other":   ["autogroup:admin"],
  },
  "grants": [
    {"src": ["autogroup:admin"], "dst": ["tag:other"], "ip": ["tcp:22"]},
    {"src": ["*"], "dst": ["tag:relay-a", "tag:relay-b"], "app": {"tailscale.com/cap/relay": [{}]}},
  ],
}
`

// policyScopes are the scopes that a client needs to write the policy.
var policyScopes = []string{"policy_file", "devices:core:read", "devices:posture_attributes:read"}

// world is a tailnet with its API, reached over HTTP.
type world struct {
	*testing.T
	tailnet *tailnet
	policy  string
	server  *httptest.Server
}

func newWorld(t *testing.T) world {
	dir := t.TempDir()
	policy := filepath.Join(dir, "policy.hujson")
	if err := os.WriteFile(policy, []byte(testPolicy), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := watchPolicy(t.Context(), policy)
	if err != nil {
		t.Fatal(err)
	}
	derp := derpMap(options{addr4: "10.0.0.1", regions: 1})
	tailnet, err := newTailnet(derp, file, filepath.Join(dir, "state.json"))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(tailnet.api.Handler())
	t.Cleanup(server.Close)
	return world{T: t, tailnet: tailnet, policy: policy, server: server}
}

// ok fails the test on an error.
func ok[T any](w world, value T, err error) T {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
	return value
}

// admin is Tailscale's client with a token of the administrator.
func (w world) admin() *client.Client {
	w.Helper()
	return w.client(&client.Client{APIKey: w.userToken()})
}

// userToken is an access token of the administrator.
func (w world) userToken() string {
	w.Helper()
	token, err := w.tailnet.api.UserToken(logins[admin])
	return ok(w, token, err)
}

func (w world) client(c *client.Client) *client.Client {
	w.Helper()
	base, err := url.Parse(w.server.URL)
	c.BaseURL = ok(w, base, err)
	return c
}

// oauth creates an OAuth client and returns Tailscale's client with it.
func (w world) oauth(scopes, tags []string) (*client.Client, *client.Key) {
	w.Helper()
	created, err := w.admin().Keys().CreateOAuthClient(w.Context(), client.CreateOAuthClientRequest{Scopes: scopes, Tags: tags})
	ok(w, created, err)
	auth := &client.OAuth{ClientID: created.ID, ClientSecret: created.Key}
	return w.client(&client.Client{Auth: auth}), created
}

// token returns an access token of an OAuth client.
func (w world) token(created *client.Key, more url.Values) (string, answer) {
	w.Helper()
	form := url.Values{"client_id": {created.ID}, "client_secret": {created.Key}}
	for name, values := range more {
		form[name] = values
	}
	got := w.send("POST", "/api/v2/oauth/token", http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, form.Encode())
	var body struct {
		AccessToken string `json:"access_token"`
	}
	json.Unmarshal([]byte(got.text), &body)
	return body.AccessToken, got
}

// answer is an answer of the API.
type answer struct {
	api.Refusal
	status int
	header http.Header
	text   string
}

func (w world) call(token, method, path, body string) answer {
	w.Helper()
	header := http.Header{"Authorization": {"Bearer " + token}, "Content-Type": {"application/json"}}
	return w.send(method, path, header, body)
}

func (w world) send(method, path string, header http.Header, body string) answer {
	w.Helper()
	request, err := http.NewRequestWithContext(context.Background(), method, w.server.URL+path, strings.NewReader(body))
	ok(w, request, err).Header = header
	response, err := http.DefaultClient.Do(request)
	ok(w, response, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	got := answer{status: response.StatusCode, header: response.Header, text: string(ok(w, text, err))}
	json.NewDecoder(bytes.NewReader(text)).Decode(&got.Refusal)
	return got
}

// wants fails the test unless the answer has this status and message.
func (w world) wants(got answer, status int, message string) {
	w.Helper()
	if got.status != status || got.Message != message {
		w.Errorf("got %d %q, want %d %q", got.status, got.Message, status, message)
	}
}

// refused fails the test unless Tailscale's client returned this status and message.
func (w world) refused(err error, status int, message string) {
	w.Helper()
	refusal, isRefusal := err.(client.APIError)
	if !isRefusal || refusal.Status != status || refusal.Message != message {
		w.Errorf("got %v, want %d %q", err, status, message)
	}
}

// device is a machine that registers.
type device struct {
	world
	machine key.MachinePublic
	node    key.NodePublic
}

func (w world) device() device {
	return device{w, key.NewMachine().Public(), key.NewNode().Public()}
}

// register joins with an auth key and returns the error of control.
func (d device) register(authKey string, tags ...string) string {
	info := &tailcfg.Hostinfo{Hostname: "d", RequestTags: tags}
	request := &tailcfg.RegisterRequest{NodeKey: d.node, Hostinfo: info}
	if authKey != "" {
		request.Auth = &tailcfg.RegisterResponseAuth{AuthKey: authKey}
	}
	return d.tailnet.register(d.machine, request).Error
}

// netmap returns the network map of the device, or nil if control does not know it.
func (d device) netmap() *tailcfg.MapResponse {
	return d.tailnet.mapResponse(d.machine, &tailcfg.MapRequest{NodeKey: d.node})
}

// keyRequest asks for a preauthorized key with tags.
func keyRequest(reusable bool, tags ...string) (request client.CreateKeyRequest) {
	create := &request.Capabilities.Devices.Create
	create.Reusable, create.Preauthorized, create.Tags = reusable, true, tags
	return request
}
