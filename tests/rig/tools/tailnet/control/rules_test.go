package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"peerrelay.dev/rig/tailnet/api"
	client "tailscale.com/client/tailscale/v2"
	"tailscale.com/tailcfg"
)

const (
	noPermission = "calling actor does not have enough permissions to perform this function"
	keysPath     = "/api/v2/tailnet/-/keys"
)

func keyBody(tags ...string) string {
	text, _ := json.Marshal(tags)
	return fmt.Sprintf(`{"capabilities": {"devices": {"create": {"preauthorized": true, "tags": %s}}}}`, text)
}

func (w world) inject(text string) {
	w.Helper()
	var fault api.Fault
	ok(w, 0, json.Unmarshal([]byte(text), &fault))
	ok(w, 0, w.tailnet.api.Faults.Add(fault))
}

func TestEachCallNeedsItsScope(t *testing.T) {
	w := newWorld(t)
	for _, rule := range []struct{ method, path, body, scopes, lacking string }{
		{"POST", keysPath, keyBody("tag:op"), "auth_keys", "devices:core"},
		{"POST", keysPath, keyBody("tag:op"), "auth_keys", "auth_keys:read"},
		{"GET", keysPath, "", "auth_keys:read", "devices:core"},
		{"GET", "/api/v2/tailnet/-/devices", "", "devices:core:read", "auth_keys"},
		{"POST", "/api/v2/tailnet/-/acl/validate", "{}", strings.Join(policyScopes, " "), "policy_file devices:core:read"},
		{"GET", "/api/v2/tailnet/-/acl", "", "all:read", "policy_file"},
		{"POST", "/api/v2/tailnet/-/acl", testPolicy, "all", "all:read"},
		{"PATCH", "/api/v2/tailnet/-/settings", "{}", "feature_settings", "feature_settings:read"},
	} {
		for _, scopes := range []string{rule.scopes, rule.lacking} {
			_, created := w.oauth(strings.Fields(scopes), []string{"tag:op"})
			token, _ := w.token(created, nil)
			header := http.Header{"Authorization": {"Bearer " + token}, "Content-Type": {"application/hujson"}}
			got := w.send(rule.method, rule.path, header, rule.body)
			if scopes == rule.scopes && got.status != 200 {
				t.Errorf("%s %s with %s: %d %s", rule.method, rule.path, scopes, got.status, got.text)
			}
			if scopes == rule.lacking && (got.status != 403 || got.Message != noPermission) {
				t.Errorf("%s %s with %s: %d %s", rule.method, rule.path, scopes, got.status, got.text)
			}
		}
	}
}

func TestKeysHaveAllTagsOfTheClientOrOnlyOwnedOnes(t *testing.T) {
	w := newWorld(t)
	_, single := w.oauth([]string{"auth_keys"}, []string{"tag:op"})
	_, double := w.oauth([]string{"auth_keys"}, []string{"tag:op", "tag:other"})
	for _, rule := range []struct {
		client *client.Key
		tags   []string
		fine   bool
	}{
		{single, []string{"tag:op"}, true},
		{single, []string{"tag:relay-a"}, true},
		{single, []string{"tag:relay-b", "tag:relay-a"}, true},
		{single, []string{"tag:other"}, false},
		{single, []string{"tag:op", "tag:relay-a"}, false},
		{single, []string{"tag:undefined"}, false},
		{double, []string{"tag:other", "tag:op"}, true},
		{double, []string{"tag:op"}, false},
	} {
		token, _ := w.token(rule.client, nil)
		got := w.call(token, "POST", keysPath, keyBody(rule.tags...))
		if rule.fine {
			w.wants(got, 200, "")
			continue
		}
		w.wants(got, 400, fmt.Sprintf("requested tags [%s] are invalid or not permitted", strings.Join(rule.tags, " ")))
	}
	token, _ := w.token(single, nil)
	w.wants(w.call(token, "POST", keysPath, keyBody()), 400, "tailnet-owned auth key must have tags set")
}

func TestDevicesKeepTagsThatTheClientOwns(t *testing.T) {
	w := newWorld(t)
	minted, err := w.admin().Keys().Create(t.Context(), keyRequest(false, "tag:relay-a"))
	device := w.device()
	device.register(ok(w, minted, err).Key)
	id := string(device.netmap().Node.StableID)
	_, created := w.oauth([]string{"devices:core"}, []string{"tag:op"})
	token, _ := w.token(created, nil)
	path := "/api/v2/device/" + id + "/tags"
	w.wants(w.call(token, "POST", path, `{"tags": ["tag:other"]}`), 400, "requested tags [tag:other] are invalid or not permitted")
	w.wants(w.call(token, "POST", path, `{"tags": []}`), 400, "tagged nodes cannot be untagged without reauth")
	w.wants(w.call(token, "POST", path, `{"tags": ["tag:relay-b"]}`), 200, "")
}

func TestInvalidKeysOfRequestsAreRefused(t *testing.T) {
	w := newWorld(t)
	token := w.userToken()
	for _, body := range []string{
		`{"description": "no / slashes"}`,
		`{"description": "` + strings.Repeat("x", 51) + `"}`,
	} {
		w.wants(w.call(token, "POST", keysPath, body), 400, "keys: description had invalid characters")
	}
	for _, body := range []string{"{", `{"expirySeconds": 7776001}`, `{"expirySeconds": -1}`, `{"keyType": "other"}`} {
		if got := w.call(token, "POST", keysPath, body); got.status != 400 {
			t.Errorf("%s: %d %s", body, got.status, got.text)
		}
	}
	w.wants(w.call(token, "GET", "/api/v2/tailnet/another.ts.net/keys", ""), 404, "not found")
	w.wants(w.call(token, "GET", "/api/v2/tailnet/rig.ts.net/keys", ""), 200, "")
	w.wants(w.call(token, "GET", "/api/v2/nothing", ""), 404, "not found")
}

func TestTokensAreOnlyForClientsThatAreThere(t *testing.T) {
	w := newWorld(t)
	_, created := w.oauth([]string{"auth_keys", "policy_file"}, []string{"tag:op"})
	_, wrong := w.token(&client.Key{ID: created.ID, Key: "tskey-client-wrong"}, nil)
	w.wants(wrong, 401, "API token invalid")
	_, more := w.token(created, url.Values{"scope": {"auth_keys devices:read"}})
	w.wants(more, 403, `OAuth client cannot grant scopes "auth_keys devices:read"`)
	_, other := w.token(created, url.Values{"grant_type": {"password"}})
	if other.status != 400 {
		t.Errorf("another grant: %d", other.status)
	}
	_, foreign := w.token(&client.Key{ID: "some-client-id", Key: created.Key}, nil)
	w.wants(foreign, 200, "")
	less, got := w.token(created, url.Values{"scope": {"auth_keys"}})
	if !strings.Contains(got.text, `"scope":"auth_keys"`) || !strings.Contains(got.text, `"expires_in":3600`) {
		t.Errorf("granted %s", got.text)
	}
	w.wants(w.call(less, "GET", "/api/v2/tailnet/-/acl", ""), 403, noPermission)
	w.wants(w.call(created.Key, "GET", keysPath, ""), 403, noPermission)
	w.wants(w.call("", "GET", keysPath, ""), 401, "API token invalid")

	ok(w, 0, w.tailnet.api.Expire(created.ID))
	w.wants(w.call(less, "POST", keysPath, keyBody("tag:op")), 401, "API token invalid")
	again, _ := w.token(created, nil)
	w.wants(w.call(again, "POST", keysPath, keyBody("tag:op")), 200, "")
}

func TestControlAcceptsOnlyKeysThatTheAPIMade(t *testing.T) {
	w := newWorld(t)
	const unknown = "invalid key: API key does not exist"
	keys := w.admin().Keys()
	mint := func(reusable bool) *client.Key {
		minted, err := keys.Create(t.Context(), keyRequest(reusable, "tag:relay-a"))
		return ok(w, minted, err)
	}
	for _, secret := range []string{"", "tskey-auth-wrong"} {
		if told := w.device().register(secret); told != unknown {
			t.Errorf("with %q: %q", secret, told)
		}
	}
	once := mint(false)
	refused := w.device().register(once.Key, "tag:other")
	if refused != "requested tags [tag:other] are invalid or not permitted" {
		t.Errorf("with another tag: %q", refused)
	}
	first := w.device()
	if told := first.register(once.Key, "tag:relay-a"); told != "" {
		t.Fatal(told)
	}
	if tags := first.netmap().Node.Tags; len(tags) != 1 || tags[0] != "tag:relay-a" {
		t.Errorf("it has the tags %v", tags)
	}
	used := "invalid key: API key " + once.ID + " not valid"
	if told := w.device().register(once.Key); told != used {
		t.Errorf("the second device: %q", told)
	}
	if told := first.register(once.Key); told != used {
		t.Errorf("the same device with the used key: %q", told)
	}
	if told := first.register(""); told != "" {
		t.Errorf("the same device without a key: %q", told)
	}
	often := mint(true)
	for range 2 {
		if told := w.device().register(often.Key); told != "" {
			t.Error(told)
		}
	}
	ok(w, 0, w.tailnet.api.Expire(often.ID))
	if told := w.device().register(often.Key); told != "invalid key: API key "+often.ID+" not valid" {
		t.Errorf("an expired key: %q", told)
	}
	gone := mint(true)
	ok(w, 0, keys.Delete(t.Context(), gone.ID))
	if told := w.device().register(gone.Key); told != unknown {
		t.Errorf("a deleted key: %q", told)
	}
}

func TestDeletedDevicesLeaveNetworkMaps(t *testing.T) {
	w := newWorld(t)
	minted, err := w.admin().Keys().Create(t.Context(), keyRequest(true, "tag:relay-a"))
	ok(w, minted, err)
	relay, peer := w.device(), w.device()
	relay.register(minted.Key)
	peer.register(minted.Key)
	if len(peer.netmap().Peers) != 1 {
		t.Fatalf("peers %v", peer.netmap().Peers)
	}
	ok(w, 0, w.admin().Devices().Delete(t.Context(), string(relay.netmap().Node.StableID)))
	if len(peer.netmap().Peers) != 0 {
		t.Error("a peer still sees the deleted device")
	}
	if told := relay.register(""); told != "invalid key: API key does not exist" {
		t.Errorf("the deleted device: %q", told)
	}
	before := len(w.tailnet.Devices())
	if told := relay.register(minted.Key); told != "" || len(w.tailnet.Devices()) != before+1 {
		t.Errorf("a deleted device does not come back: %q", told)
	}
}

func TestDevicesWaitForApprovalIfTheTailnetWantsIt(t *testing.T) {
	w := newWorld(t)
	change := client.UpdateTailnetSettingsRequest{DevicesApprovalOn: client.PointerTo(true)}
	ok(w, 0, w.admin().TailnetSettings().Update(t.Context(), change))
	request := keyRequest(true, "tag:relay-a")
	approved, err := w.admin().Keys().Create(t.Context(), request)
	ok(w, approved, err)
	request.Capabilities.Devices.Create.Preauthorized = false
	plain, err := w.admin().Keys().Create(t.Context(), request)
	ok(w, plain, err)
	peer, waiting := w.device(), w.device()
	peer.register(approved.Key)
	waiting.register(plain.Key)
	if waiting.netmap().Node.MachineAuthorized || len(waiting.netmap().Peers)+len(peer.netmap().Peers) != 0 {
		t.Error("a device that waits for approval takes part")
	}
	id := string(waiting.netmap().Node.StableID)
	ok(w, 0, w.admin().Devices().SetAuthorized(t.Context(), id, true))
	if len(waiting.netmap().Peers) != 1 || len(peer.netmap().Peers) != 1 {
		t.Error("an approved device does not take part")
	}
}

func TestEphemeralDevicesGoWhenTheyLeave(t *testing.T) {
	w := newWorld(t)
	request := keyRequest(true, "tag:relay-a")
	request.Capabilities.Devices.Create.Ephemeral = true
	minted, err := w.admin().Keys().Create(t.Context(), request)
	ok(w, minted, err)
	connected, idle, leaving := w.device(), w.device(), w.device()
	for _, device := range []device{connected, idle, leaving} {
		device.register(minted.Key)
	}
	past := time.Unix(123, 0)
	w.tailnet.register(leaving.machine, &tailcfg.RegisterRequest{NodeKey: leaving.node, Expiry: past})
	if leaving.netmap() != nil || idle.netmap() == nil {
		t.Error("a logout removes the device that logs out")
	}
	w.tailnet.subscribe(connected.node)
	w.tailnet.removeEphemeral()
	if connected.netmap() == nil || idle.netmap() != nil {
		t.Error("only devices that are not connected go")
	}
}

func TestCredentialsAndKeysOutliveARestart(t *testing.T) {
	w := newWorld(t)
	_, created := w.oauth([]string{"auth_keys"}, []string{"tag:op"})
	token, _ := w.token(created, nil)
	minted, err := w.admin().Keys().Create(t.Context(), keyRequest(false, "tag:relay-a"))
	device := w.device()
	device.register(ok(w, minted, err).Key)
	id := device.netmap().Node.StableID

	file := strings.Replace(w.policy, "policy.hujson", "state.json", 1)
	again, err := newTailnet(w.tailnet.derp, w.tailnet.policy, file)
	w.tailnet = ok(w, again, err)
	w.server.Config.Handler = w.tailnet.api.Handler()
	w.wants(w.call(token, "POST", keysPath, keyBody("tag:relay-a")), 200, "")
	if told := w.device().register(minted.Key); !strings.HasSuffix(told, "not valid") {
		t.Errorf("a used key after a restart: %q", told)
	}
	fresh, err := w.admin().Keys().Create(t.Context(), keyRequest(false, "tag:relay-a"))
	device.world = w
	device.register(ok(w, fresh, err).Key)
	if device.netmap().Node.StableID == id {
		t.Error("a device has the ID of an earlier one")
	}
}

func TestPolicyWritesNeedTheCurrentEntityTag(t *testing.T) {
	w := newWorld(t)
	token := w.userToken()
	const path = "/api/v2/tailnet/-/acl"
	write := func(text, kind, match string) answer {
		header := http.Header{"Authorization": {"Bearer " + token}, "Content-Type": {kind}}
		if match != "" {
			header.Set("If-Match", match)
		}
		return w.send("POST", path, header, text)
	}
	before := w.call(token, "GET", path, "")
	changed := testPolicy + "// more\n"
	for _, match := range []string{`"ts-default"`, `"0000"`, strings.Trim(before.header.Get("ETag"), `"`)} {
		w.wants(write(changed, "application/hujson", match), 412, "precondition failed, invalid old hash")
	}
	if got := write(changed, "text/plain", ""); got.status != 400 {
		t.Errorf("another type: %d", got.status)
	}
	for _, text := range []string{"{", `{"grants": [{"src": ["tag:none"], "dst": ["*"], "ip": ["*"]}]}`} {
		if got := write(text, "application/hujson", ""); got.status != 400 || got.Message == "" {
			t.Errorf("%s: %d %s", text, got.status, got.text)
		}
	}
	if text, err := os.ReadFile(w.policy); err != nil || string(text) != testPolicy {
		t.Errorf("a refused policy is in the file: %s %v", text, err)
	}
	got := write(changed, "application/hujson", before.header.Get("ETag"))
	if got.status != 200 || got.text != changed || got.header.Get("ETag") == before.header.Get("ETag") {
		t.Errorf("the write: %+v", got)
	}
	if text, err := os.ReadFile(w.policy); err != nil || string(text) != changed {
		t.Errorf("the file has %s %v", text, err)
	}
}

func TestDefaultPolicyHasATagOfItsOwn(t *testing.T) {
	file, err := watchPolicy(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	tailnet, err := newTailnet(nil, file, "")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	w.server.Config.Handler = tailnet.api.Handler()
	w.tailnet = tailnet
	policies := w.admin().PolicyFile()
	ok(w, 0, policies.Set(t.Context(), testPolicy, `"ts-default"`))
	w.refused(policies.Set(t.Context(), "{}", `"ts-default"`), 412, "precondition failed, invalid old hash")
}

func TestValidationAnswersWarningsAndPreviewsRules(t *testing.T) {
	w := newWorld(t)
	token := w.userToken()
	header := http.Header{"Authorization": {"Bearer " + token}, "Content-Type": {"application/hujson"}}
	send := func(path, text string) answer { return w.send("POST", "/api/v2/tailnet/-/acl/"+path, header, text) }
	got := send("validate", `{"grants": [{"src": ["group:team@example.com"], "dst": ["*"], "ip": ["*"]}]}`)
	w.wants(got, 200, "warning(s) found")
	if len(got.Data) != 1 || len(got.Data[0].Warnings) != 1 || len(got.Data[0].Errors) != 0 {
		t.Errorf("warnings %+v", got.Data)
	}
	if got := send("validate", testPolicy); got.status != 200 || got.text != "" {
		t.Errorf("a valid policy: %d %s", got.status, got.text)
	}
	login := url.QueryEscape(logins[admin])
	want := `{"matches":[{"users":["autogroup:admin"],"ports":["tag:other:22"],"lineNumber":10}]`
	for _, query := range []string{"type=user&previewFor=" + login, "type=ipport&previewFor=tag:other:22"} {
		if got := send("preview?"+query, testPolicy); !strings.HasPrefix(got.text, want) {
			t.Errorf("%s: %s", query, got.text)
		}
	}
	if got := send("preview?type=user&previewFor=nobody@example.com", testPolicy); !strings.HasPrefix(got.text, `{"matches":[]`) {
		t.Errorf("of nobody: %s", got.text)
	}
}

func TestInjectedFaultsActAsOftenAsTheySay(t *testing.T) {
	w := newWorld(t)
	token := w.userToken()
	w.inject(`{"method": "GET", "path": "/api/v2/tailnet/*/devices", "status": 429, "retryAfter": "7", "skip": 1, "times": 1}`)
	statuses := ""
	for range 3 {
		got := w.call(token, "GET", "/api/v2/tailnet/-/devices", "")
		statuses += fmt.Sprintf("%d %s,", got.status, got.header.Get("Retry-After"))
	}
	if statuses != "200 ,429 7,200 ," {
		t.Errorf("statuses %s", statuses)
	}
	w.inject(`{"path": "/api/v2/device/*", "lose": "request"}`)
	request, _ := http.NewRequest("DELETE", w.server.URL+"/api/v2/device/none", nil)
	if _, err := http.DefaultClient.Do(request); err == nil {
		t.Error("a lost request has an answer")
	}
	requests := w.tailnet.api.Requests()
	if last := requests[len(requests)-1]; last.Method != "DELETE" || last.Status != 0 {
		t.Errorf("recorded %+v", last)
	}
	w.tailnet.api.Faults.Clear()
	w.wants(w.call(token, "DELETE", "/api/v2/device/none", ""), 404, "not found")
	for _, fault := range []api.Fault{{Path: "["}, {Path: "/"}, {Path: "/", Lose: "half"}} {
		if w.tailnet.api.Faults.Add(fault) == nil {
			t.Errorf("accepted %+v", fault)
		}
	}
}
