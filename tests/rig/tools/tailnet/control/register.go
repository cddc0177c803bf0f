package main

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"tailscale.com/net/netaddr"
	"tailscale.com/net/tsaddr"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// Users of the tailnet: an administrator and a member.
const (
	admin  tailcfg.UserID = 123
	member tailcfg.UserID = 124
)

var logins = map[tailcfg.UserID]string{admin: "user-123@rig.example.net", member: "member@rig.example.net"}

// isIn says whether a user is in an autogroup of users.
func isIn(autogroup, login string) bool {
	switch autogroup {
	case "autogroup:member":
		return login != ""
	case "autogroup:admin", "autogroup:owner":
		return login == logins[admin]
	}
	return false
}

// authKey lets devices in: with its tags, or as its owner's, with tags that the owner may give.
type authKey struct {
	owner tailcfg.UserID
	tags  []string
}

// tagsFor gives the tags of a device that registers with a key.
func (p *Policy) tagsFor(key authKey, requested []string) ([]string, error) {
	if len(requested) == 0 {
		return key.tags, nil
	}
	for _, tag := range requested {
		if !p.mayGive(key, tag) {
			return nil, fmt.Errorf("requested tags [%s] are invalid or not permitted", strings.Join(requested, " "))
		}
	}
	return slices.Clone(requested), nil
}

func (p *Policy) mayGive(key authKey, tag string) bool {
	owners, defined := p.TagOwners[tag]
	if len(key.tags) > 0 {
		owned := slices.ContainsFunc(key.tags, func(own string) bool { return slices.Contains(owners, own) })
		return defined && (owned || slices.Contains(key.tags, tag))
	}
	login := logins[key.owner]
	owns := slices.ContainsFunc(owners, func(owner string) bool {
		return owner == login || isIn(owner, login) || slices.Contains(p.Groups[owner], login)
	})
	// Administrators own every tag that the policy defines.
	return defined && (owns || key.owner == admin)
}

func (t *tailnet) register(machine key.MachinePublic, req *tailcfg.RegisterRequest) tailcfg.RegisterResponse {
	defer t.notify()
	t.mu.Lock()
	defer t.mu.Unlock()
	var secret string
	if req.Auth != nil {
		secret = req.Auth.AuthKey
	}
	known := t.nodes[req.NodeKey]
	if known != nil && known.Machine != machine {
		return tailcfg.RegisterResponse{Error: "node key belongs to another machine"}
	}
	if known != nil && secret == "" {
		// A device that is known needs no key.
		return registered(known)
	}
	authKey, valid := t.keys[secret]
	if !valid {
		return tailcfg.RegisterResponse{Error: "invalid key: API key does not exist"}
	}
	var hostinfo tailcfg.Hostinfo
	if req.Hostinfo != nil {
		hostinfo = *req.Hostinfo
	}
	tags, err := t.policy.policy().tagsFor(authKey, hostinfo.RequestTags)
	if err != nil {
		return tailcfg.RegisterResponse{Error: err.Error()}
	}
	if known != nil {
		known.User, known.Tags = authKey.owner, tags
		return registered(known)
	}
	t.lastID++
	id := t.lastID
	v4 := netaddr.IPv4(100, 64, uint8(id>>8), uint8(id))
	addresses := []netip.Prefix{
		netip.PrefixFrom(v4, v4.BitLen()),
		netip.PrefixFrom(tsaddr.Tailscale4To6(v4), 128),
	}
	node := &tailcfg.Node{
		ID:                tailcfg.NodeID(id),
		StableID:          tailcfg.StableNodeID(fmt.Sprintf("RIG%08x", id)),
		Name:              hostinfo.Hostname + "." + domain + ".",
		User:              authKey.owner,
		Machine:           machine,
		Key:               req.NodeKey,
		MachineAuthorized: true,
		Addresses:         addresses,
		AllowedIPs:        addresses,
		Hostinfo:          hostinfo.View(),
		Tags:              tags,
		Cap:               req.Version,
	}
	t.nodes[req.NodeKey] = node
	return registered(node)
}

func registered(node *tailcfg.Node) tailcfg.RegisterResponse {
	return tailcfg.RegisterResponse{
		User:              tailcfg.User{ID: node.User, DisplayName: logins[node.User]},
		Login:             tailcfg.Login{ID: tailcfg.LoginID(node.User), LoginName: logins[node.User]},
		MachineAuthorized: true,
		NodeKeyExpired:    !node.KeyExpiry.IsZero() && node.KeyExpiry.Before(time.Now()),
	}
}

// retag handles a known device that asks for other tags than it has: it gets them if its own tags
// own them, and must register anew otherwise. The caller holds t.mu.
func (t *tailnet) retag(node *tailcfg.Node, requested []string) {
	before := node.Hostinfo.RequestTags().AsSlice()
	if sameTags(requested, before) || sameTags(requested, node.Tags) || len(requested) == 0 {
		return
	}
	policy := t.policy.policy()
	for _, tag := range requested {
		if !policy.mayGive(authKey{owner: node.User, tags: node.Tags}, tag) {
			node.KeyExpiry = time.Now().Add(-time.Minute)
			return
		}
	}
	node.Tags = slices.Clone(requested)
}

func sameTags(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// addKey serves POST /keys: an auth key with tags, or of an owner.
func (t *tailnet) addKey(w http.ResponseWriter, r *http.Request) {
	added := authKey{owner: admin}
	if tags := r.FormValue("tags"); tags != "" {
		added.tags = strings.Split(tags, ",")
	}
	for _, tag := range added.tags {
		if err := t.policy.policy().checkTag(tag); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	if r.FormValue("owner") == "member" {
		added.owner = member
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.keys[r.FormValue("key")] = added
}
