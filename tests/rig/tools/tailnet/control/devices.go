package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"peerrelay.dev/rig/tailnet/api"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// Devices implements [api.Tailnet].
func (t *tailnet) Devices() []api.Device {
	t.mu.Lock()
	defer t.mu.Unlock()
	streaming := t.streaming()
	var devices []api.Device
	for _, node := range t.sortedNodes() {
		record := t.records[node.Key]
		device := api.Device{
			Name:               strings.TrimSuffix(node.Name, "."),
			ID:                 strconv.FormatInt(int64(node.ID), 10),
			NodeID:             string(node.StableID),
			Authorized:         node.MachineAuthorized,
			User:               logins[node.User],
			Tags:               node.Tags,
			KeyExpiryDisabled:  record.keyExpiryDisabled,
			Created:            record.created,
			Expires:            node.KeyExpiry,
			IsEphemeral:        record.ephemeral,
			ConnectedToControl: streaming[node.Key],
			MachineKey:         node.Machine.String(),
			NodeKey:            node.Key.String(),
		}
		if len(node.Tags) > 0 {
			device.User, device.KeyExpiryDisabled = "tagged-devices", true
		}
		if !device.ConnectedToControl {
			device.LastSeen = &record.lastSeen
		}
		for _, prefix := range node.Addresses {
			device.Addresses = append(device.Addresses, prefix.Addr().String())
		}
		if info := node.Hostinfo; info.Valid() {
			device.Hostname, device.OS, device.ClientVersion = info.Hostname(), info.OS(), info.IPNVersion()
			device.BlocksIncomingConnections = info.ShieldsUp()
			for _, route := range info.RoutableIPs().All() {
				device.AdvertisedRoutes = append(device.AdvertisedRoutes, route.String())
			}
		}
		device.ClientConnectivity = t.connectivity(node)
		devices = append(devices, device)
	}
	return devices
}

// connectivity is what a device has reported about its network.
func (t *tailnet) connectivity(node *tailcfg.Node) *api.Connectivity {
	told := &api.Connectivity{Endpoints: []string{}, Latency: map[string]api.Latency{}, ClientSupports: map[string]*bool{}}
	for _, endpoint := range node.Endpoints {
		told.Endpoints = append(told.Endpoints, endpoint.String())
	}
	if !node.Hostinfo.Valid() || !node.Hostinfo.NetInfo().Valid() {
		return told
	}
	info := node.Hostinfo.NetInfo().AsStruct()
	if varies, known := info.MappingVariesByDestIP.Get(); known {
		told.MappingVariesByDestIP = &varies
	}
	for name, value := range map[string]interface{ Get() (bool, bool) }{
		"ipv6": info.WorkingIPv6, "udp": info.WorkingUDP, "pcp": info.PCP, "pmp": info.PMP, "upnp": info.UPnP,
	} {
		told.ClientSupports[name] = nil
		if works, known := value.Get(); known {
			told.ClientSupports[name] = &works
		}
	}
	for path, seconds := range info.DERPLatency {
		// Such as 1-v4.
		number, _, _ := strings.Cut(path, "-")
		id, err := strconv.Atoi(number)
		region := t.derp.Regions[id]
		if err != nil || region == nil {
			continue
		}
		latency := api.Latency{Preferred: id == info.PreferredDERP, LatencyMs: seconds * 1000}
		if before, known := told.Latency[region.RegionName]; known {
			latency.LatencyMs = math.Min(latency.LatencyMs, before.LatencyMs)
		}
		told.Latency[region.RegionName] = latency
	}
	return told
}

// streaming returns the devices that listen for network maps. The caller holds t.mu.
func (t *tailnet) streaming() map[key.NodePublic]bool {
	streaming := map[key.NodePublic]bool{}
	for _, node := range t.streams {
		streaming[node] = true
	}
	return streaming
}

// find returns the device with this node ID, or nil. The caller holds t.mu.
func (t *tailnet) find(nodeID string) *tailcfg.Node {
	for _, node := range t.nodes {
		if string(node.StableID) == nodeID {
			return node
		}
	}
	return nil
}

// remove forgets a device. The caller holds t.mu.
func (t *tailnet) remove(key key.NodePublic) {
	delete(t.nodes, key)
	delete(t.records, key)
	delete(t.attrs, key)
}

// removeEphemeral removes ephemeral devices that are not connected. The hosted control server does so
// within an hour after they have gone.
func (t *tailnet) removeEphemeral() {
	defer t.notify()
	t.mu.Lock()
	defer t.mu.Unlock()
	streaming := t.streaming()
	for key, record := range t.records {
		if record.ephemeral && !streaming[key] {
			t.remove(key)
		}
	}
}

// DeleteDevice implements [api.Tailnet].
func (t *tailnet) DeleteDevice(nodeID string) bool {
	defer t.notify()
	t.mu.Lock()
	defer t.mu.Unlock()
	node := t.find(nodeID)
	if node != nil {
		t.remove(node.Key)
	}
	return node != nil
}

// ChangeDevice implements [api.Tailnet].
func (t *tailnet) ChangeDevice(nodeID string, change api.DeviceChange) bool {
	defer t.notify()
	t.mu.Lock()
	defer t.mu.Unlock()
	node := t.find(nodeID)
	if node == nil {
		return false
	}
	if change.Authorized != nil {
		node.MachineAuthorized = *change.Authorized
	}
	if change.KeyExpiryDisabled != nil {
		t.records[node.Key].keyExpiryDisabled = *change.KeyExpiryDisabled
		if *change.KeyExpiryDisabled {
			node.KeyExpiry = time.Time{}
		}
	}
	if change.Tags != nil {
		node.Tags = slices.Clone(*change.Tags)
	}
	if change.Name != nil {
		name := strings.TrimSuffix(*change.Name, "."+domain)
		node.Name = fmt.Sprintf("%s.%s.", name, domain)
	}
	if change.Expire {
		node.KeyExpiry = time.Now()
	}
	return true
}
