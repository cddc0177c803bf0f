package main

import (
	"fmt"
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

// authority is what lets a device have tags: those of an auth key or of the device itself, or those
// that a user owns.
type authority struct {
	owner tailcfg.UserID
	tags  []string
}

// tagsFor gives the tags of a device that registers.
func (p *Policy) tagsFor(by authority, requested []string) ([]string, error) {
	if len(requested) == 0 {
		return by.tags, nil
	}
	for _, tag := range requested {
		if !p.mayGive(by, tag) {
			return nil, fmt.Errorf("requested tags [%s] are invalid or not permitted", strings.Join(requested, " "))
		}
	}
	return slices.Clone(requested), nil
}

func (p *Policy) mayGive(by authority, tag string) bool {
	owners, defined := p.TagOwners[tag]
	if len(by.tags) > 0 {
		owned := slices.ContainsFunc(by.tags, func(own string) bool { return slices.Contains(owners, own) })
		return defined && (owned || slices.Contains(by.tags, tag))
	}
	login := logins[by.owner]
	owns := slices.ContainsFunc(owners, func(owner string) bool {
		return owner == login || isIn(owner, login) || slices.Contains(p.Groups[owner], login)
	})
	// Administrators own every tag that the policy defines.
	return defined && (owns || by.owner == admin)
}

// record is what the API tells about a device and its network map does not.
type record struct {
	created, lastSeen            time.Time
	ephemeral, keyExpiryDisabled bool
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
	if !req.Expiry.IsZero() && req.Expiry.Before(time.Now()) {
		t.logOut(req.NodeKey)
		return tailcfg.RegisterResponse{NodeKeyExpired: true}
	}
	if known != nil && secret == "" {
		// A device that is known needs no key.
		return registered(known)
	}
	node, err := t.join(machine, req, secret)
	if err != nil {
		return tailcfg.RegisterResponse{Error: err.Error()}
	}
	return registered(node)
}

// join lets a device in by an auth key, which is used up by that unless it is reusable. The caller
// holds t.mu.
func (t *tailnet) join(machine key.MachinePublic, req *tailcfg.RegisterRequest, secret string) (*tailcfg.Node, error) {
	authKey, err := t.api.FindKey(secret)
	if err != nil {
		return nil, err
	}
	// The tailnet owns the keys of OAuth clients, which always have tags.
	by := authority{owner: admin, tags: authKey.Tags}
	if id, isUser := userID(authKey.User); isUser {
		by.owner = id
	}
	var hostinfo tailcfg.Hostinfo
	if req.Hostinfo != nil {
		hostinfo = *req.Hostinfo
	}
	tags, err := t.policy.policy().tagsFor(by, hostinfo.RequestTags)
	if err != nil {
		return nil, err
	}
	node := t.nodes[req.NodeKey]
	if node == nil {
		if node, err = t.newNode(machine, req, hostinfo); err != nil {
			return nil, err
		}
		node.MachineAuthorized = authKey.Preauthorized || !t.api.ApprovalRequired()
		t.nodes[req.NodeKey] = node
		now := time.Now()
		t.records[req.NodeKey] = &record{created: now, lastSeen: now, ephemeral: authKey.Ephemeral}
	}
	node.User, node.Tags = by.owner, tags
	return node, t.api.UseKey(authKey.ID, string(node.StableID))
}

func userID(login string) (tailcfg.UserID, bool) {
	for id, known := range logins {
		if known == login {
			return id, true
		}
	}
	return 0, false
}

func (t *tailnet) newNode(machine key.MachinePublic, req *tailcfg.RegisterRequest, hostinfo tailcfg.Hostinfo) (*tailcfg.Node, error) {
	id, err := t.api.NextDevice()
	if err != nil {
		return nil, err
	}
	v4 := netaddr.IPv4(100, 64, uint8(id>>8), uint8(id))
	addresses := []netip.Prefix{
		netip.PrefixFrom(v4, v4.BitLen()),
		netip.PrefixFrom(tsaddr.Tailscale4To6(v4), 128),
	}
	return &tailcfg.Node{
		ID:       tailcfg.NodeID(id),
		StableID: tailcfg.StableNodeID(fmt.Sprintf("nRIG%08xCNTRL", id)),
		Name:     hostinfo.Hostname + "." + domain + ".",
		Machine:  machine,
		Key:      req.NodeKey,
		// Auth keys that Tailnet Lock has signed let a device sign its own node key.
		KeySignature: req.NodeKeySignature,
		Addresses:    addresses,
		AllowedIPs:   addresses,
		Hostinfo:     hostinfo.View(),
		Cap:          req.Version,
	}, nil
}

// logOut lets a device's node key expire, and removes an ephemeral device. The caller holds t.mu.
func (t *tailnet) logOut(key key.NodePublic) {
	node := t.nodes[key]
	switch {
	case node == nil:
	case t.records[key].ephemeral:
		t.remove(key)
	default:
		node.KeyExpiry = time.Now()
	}
}

func registered(node *tailcfg.Node) tailcfg.RegisterResponse {
	return tailcfg.RegisterResponse{
		User:              tailcfg.User{ID: node.User, DisplayName: logins[node.User]},
		Login:             tailcfg.Login{ID: tailcfg.LoginID(node.User), LoginName: logins[node.User]},
		MachineAuthorized: node.MachineAuthorized,
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
		if !policy.mayGive(authority{owner: node.User, tags: node.Tags}, tag) {
			node.KeyExpiry = time.Now().Add(-time.Minute)
			return
		}
	}
	node.Tags = slices.Clone(requested)
}

func sameTags(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}
