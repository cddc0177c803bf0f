package main

import (
	"errors"
	"slices"
	"strings"
	"testing"

	client "tailscale.com/client/tailscale/v2"
)

// These tests run Tailscale's own Go client against the API.

func TestClientMintsReadsListsAndDeletesAuthKeys(t *testing.T) {
	w := newWorld(t)
	keys, _ := w.oauth([]string{"auth_keys"}, []string{"tag:op"})
	request := keyRequest(false, "tag:relay-a")
	request.ExpirySeconds, request.Description = 600, "a relay"
	minted, err := keys.Keys().Create(t.Context(), request)
	ok(w, minted, err)
	if !strings.HasPrefix(minted.Key, "tskey-auth-"+minted.ID+"-") || minted.KeyType != "auth" {
		t.Errorf("minted %+v", minted)
	}
	if got := minted.Expires.Sub(minted.Created).Seconds(); got != 600 {
		t.Errorf("it lasts %v s", got)
	}
	read, err := keys.Keys().Get(t.Context(), minted.ID)
	if ok(w, read, err); read.Key != "" || read.Invalid || read.Description != "a relay" ||
		!slices.Equal(read.Capabilities.Devices.Create.Tags, []string{"tag:relay-a"}) {
		t.Errorf("read %+v", read)
	}
	listed, err := keys.Keys().List(t.Context(), true)
	if ok(w, listed, err); len(listed) != 1 || listed[0].ID != minted.ID {
		t.Errorf("listed %+v", listed)
	}
	if err := keys.Keys().Delete(t.Context(), minted.ID); err != nil {
		t.Fatal(err)
	}
	read, err = keys.Keys().Get(t.Context(), minted.ID)
	if ok(w, read, err); !read.Invalid || read.Revoked.IsZero() {
		t.Errorf("a deleted key is %+v", read)
	}
	if err := keys.Keys().Delete(t.Context(), minted.ID); !client.IsNotFound(err) {
		t.Errorf("the second deletion: %v", err)
	}
	w.refused(keys.Keys().Delete(t.Context(), "kNoneCNTRL"), 404, "not found")
}

func TestClientManagesOAuthClients(t *testing.T) {
	w := newWorld(t)
	limited, created := w.oauth([]string{"devices:core:read", "oauth_keys"}, []string{"tag:op"})
	listed, err := limited.Keys().List(t.Context(), false)
	if ok(w, listed, err); len(listed) != 1 || listed[0].ID != created.ID || listed[0].KeyType != "client" {
		t.Errorf("listed %+v", listed)
	}
	_, err = limited.Devices().List(t.Context())
	ok(w, 0, err)
	change := client.SetOAuthClientRequest{Scopes: []string{"oauth_keys"}, Tags: created.Tags}
	changed, err := w.admin().Keys().SetOAuthClient(t.Context(), created.ID, change)
	if ok(w, changed, err); !slices.Equal(changed.Scopes, change.Scopes) {
		t.Errorf("changed %+v", changed)
	}
	// A token keeps its scopes.
	_, err = limited.Devices().List(t.Context())
	ok(w, 0, err)
	renewed := w.client(&client.Client{Auth: &client.OAuth{ClientID: created.ID, ClientSecret: created.Key}})
	_, err = renewed.Devices().List(t.Context())
	w.refused(err, 403, "calling actor does not have enough permissions to perform this function")
	if err := w.admin().Keys().Delete(t.Context(), created.ID); err != nil {
		t.Fatal(err)
	}
	_, err = renewed.Devices().List(t.Context())
	w.refused(err, 401, "API token invalid")
}

func TestClientReadsChangesAndDeletesDevices(t *testing.T) {
	w := newWorld(t)
	minted, err := w.admin().Keys().Create(t.Context(), keyRequest(true, "tag:relay-a"))
	ok(w, minted, err)
	relay, other := w.device(), w.device()
	for _, device := range []device{relay, other} {
		if told := device.register(minted.Key); told != "" {
			t.Fatal(told)
		}
	}
	devices, _ := w.oauth([]string{"devices:core"}, []string{"tag:op"})
	listed, err := devices.Devices().List(t.Context())
	if ok(w, listed, err); len(listed) != 2 {
		t.Fatalf("listed %+v", listed)
	}
	found := listed[0]
	if found.Name != "d.rig.ts.net" || found.NodeKey != relay.node.String() || !found.Authorized ||
		found.User != "tagged-devices" || !found.KeyExpiryDisabled || found.LastSeen == nil {
		t.Errorf("listed %+v", found)
	}
	if found.NodeID != string(relay.netmap().Node.StableID) {
		t.Errorf("the API says %s", found.NodeID)
	}
	byOldID, err := devices.Devices().Get(t.Context(), found.ID)
	if ok(w, byOldID, err); byOldID.NodeID != found.NodeID || byOldID.ClientConnectivity != nil {
		t.Errorf("got %+v", byOldID)
	}
	whole, err := devices.Devices().GetWithAllFields(t.Context(), found.NodeID)
	if ok(w, whole, err); whole.ClientConnectivity == nil {
		t.Errorf("got %+v", whole)
	}
	if err := devices.Devices().SetTags(t.Context(), found.NodeID, []string{"tag:relay-b"}); err != nil {
		t.Fatal(err)
	}
	filtered, err := devices.Devices().List(t.Context(), client.WithFilter("tags", []string{"tag:relay-b"}))
	if ok(w, filtered, err); len(filtered) != 1 || filtered[0].NodeID != found.NodeID {
		t.Errorf("filtered %+v", filtered)
	}
	for _, err := range []error{
		devices.Devices().SetName(t.Context(), found.NodeID, "renamed"),
		devices.Devices().SetAuthorized(t.Context(), found.NodeID, false),
		devices.Devices().SetKey(t.Context(), found.NodeID, client.DeviceKey{KeyExpiryDisabled: true}),
	} {
		ok(w, 0, err)
	}
	changed := relay.netmap().Node
	if changed.Name != "renamed.rig.ts.net." || changed.MachineAuthorized || changed.Tags[0] != "tag:relay-b" {
		t.Errorf("changed %+v", changed)
	}
	if err := devices.Devices().Delete(t.Context(), found.NodeID); err != nil {
		t.Fatal(err)
	}
	if relay.netmap() != nil {
		t.Error("control still knows the device")
	}
	if err := devices.Devices().Delete(t.Context(), found.NodeID); !client.IsNotFound(err) {
		t.Errorf("the second deletion: %v", err)
	}
	if other.netmap() == nil {
		t.Error("another device is gone too")
	}
}

func TestClientReadsValidatesAndWritesThePolicy(t *testing.T) {
	w := newWorld(t)
	policies, _ := w.oauth(policyScopes, nil)
	raw, err := policies.PolicyFile().Raw(t.Context())
	if ok(w, raw, err); raw.HuJSON != testPolicy || raw.ETag == "" {
		t.Errorf("read %+v", raw)
	}
	parsed, err := policies.PolicyFile().Get(t.Context())
	if ok(w, parsed, err); len(parsed.Grants) != 2 || parsed.ETag != raw.ETag {
		t.Errorf("parsed %+v", parsed)
	}
	changed := strings.Replace(testPolicy, "tcp:22", "tcp:23", 1)
	ok(w, 0, policies.PolicyFile().Validate(t.Context(), changed))
	ok(w, 0, policies.PolicyFile().Set(t.Context(), changed, raw.ETag))
	now, err := policies.PolicyFile().Raw(t.Context())
	if ok(w, now, err); now.HuJSON != changed || now.ETag == raw.ETag {
		t.Errorf("after the write: %+v", now)
	}
	err = policies.PolicyFile().Set(t.Context(), testPolicy, raw.ETag)
	w.refused(err, 412, "precondition failed, invalid old hash")
	ok(w, 0, policies.PolicyFile().Set(t.Context(), testPolicy, now.ETag))

	test := client.ACLTest{Source: "tag:op", Deny: []string{"tag:other:22"}}
	ok(w, 0, policies.PolicyFile().Validate(t.Context(), []client.ACLTest{test}))
	test = client.ACLTest{Source: "tag:op", Accept: []string{"tag:other:22"}}
	err = policies.PolicyFile().Validate(t.Context(), []client.ACLTest{test})
	if err == nil || !strings.Contains(err.Error(), `want: Accept, got: Drop`) {
		t.Errorf("a test that fails: %v", err)
	}
	parsed.Tests = []client.ACLTest{test}
	err = policies.PolicyFile().Set(t.Context(), *parsed, "")
	w.refused(err, 400, "test(s) failed")
	if data := client.ErrorData(err); len(data) != 1 || data[0].User != "tag:op" || len(data[0].Errors) != 1 {
		t.Errorf("data %+v", data)
	}
	if err := policies.PolicyFile().Validate(t.Context(), "{"); err == nil {
		t.Error("half a policy is valid")
	}
}

func TestClientReadsAndChangesSettings(t *testing.T) {
	w := newWorld(t)
	change := client.UpdateTailnetSettingsRequest{DevicesApprovalOn: client.PointerTo(true)}
	ok(w, 0, w.admin().TailnetSettings().Update(t.Context(), change))
	settings, err := w.admin().TailnetSettings().Get(t.Context())
	if ok(w, settings, err); !settings.DevicesApprovalOn {
		t.Errorf("settings %+v", settings)
	}
}

func TestClientHasNoAnswerWhenItIsLost(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	fault := `{"method": "POST", "path": "/api/v2/tailnet/*/keys", "lose": "answer", "times": 1}`
	w.inject(fault)
	_, err := admin.Keys().Create(t.Context(), keyRequest(false, "tag:relay-a"))
	var refusal client.APIError
	if err == nil || errors.As(err, &refusal) {
		t.Errorf("the answer was not lost: %v", err)
	}
	if made := w.tailnet.api.AuthKeys(); len(made) != 1 || len(made[0].Devices) != 0 {
		t.Errorf("made %+v", made)
	}
}
