package api

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// Device is a device in an answer.
type Device struct {
	Addresses                 []string   `json:"addresses"`
	Name                      string     `json:"name"`
	ID                        string     `json:"id"`
	NodeID                    string     `json:"nodeId"`
	Authorized                bool       `json:"authorized"`
	User                      string     `json:"user"`
	Tags                      []string   `json:"tags,omitempty"`
	KeyExpiryDisabled         bool       `json:"keyExpiryDisabled"`
	BlocksIncomingConnections bool       `json:"blocksIncomingConnections"`
	ClientVersion             string     `json:"clientVersion"`
	Created                   time.Time  `json:"created"`
	Expires                   time.Time  `json:"expires"`
	Hostname                  string     `json:"hostname"`
	IsEphemeral               bool       `json:"isEphemeral"`
	IsExternal                bool       `json:"isExternal"`
	ConnectedToControl        bool       `json:"connectedToControl"`
	LastSeen                  *time.Time `json:"lastSeen,omitempty"`
	MachineKey                string     `json:"machineKey"`
	NodeKey                   string     `json:"nodeKey"`
	OS                        string     `json:"os"`
	TailnetLockError          string     `json:"tailnetLockError"`
	TailnetLockKey            string     `json:"tailnetLockKey"`
	UpdateAvailable           bool       `json:"updateAvailable"`

	// These are in answers to fields=all only.
	AdvertisedRoutes   []string      `json:"advertisedRoutes,omitempty"`
	EnabledRoutes      []string      `json:"enabledRoutes,omitempty"`
	ClientConnectivity *Connectivity `json:"clientConnectivity,omitempty"`
}

// Connectivity is what a device reports about its network.
type Connectivity struct {
	Endpoints             []string           `json:"endpoints"`
	MappingVariesByDestIP *bool              `json:"mappingVariesByDestIP"`
	Latency               map[string]Latency `json:"latency"`
	ClientSupports        map[string]*bool   `json:"clientSupports"`
}

// Latency is the distance of a DERP region.
type Latency struct {
	Preferred bool    `json:"preferred,omitempty"`
	LatencyMs float64 `json:"latencyMs"`
}

func (s *Server) deviceRoutes() {
	readers, writers := []string{read(scopeDevices)}, []string{scopeDevices}
	s.route("GET /api/v2/tailnet/{tailnet}/devices", readers, s.listDevices)
	s.route("GET /api/v2/device/{id}", readers, s.getDevice)
	s.route("DELETE /api/v2/device/{id}", writers, s.deleteDevice)
	for field, change := range map[string]func(*http.Request, actor, Device) (DeviceChange, error){
		"authorized": authorization,
		"expire":     func(*http.Request, actor, Device) (DeviceChange, error) { return DeviceChange{Expire: true}, nil },
		"key":        keyExpiry,
		"name":       rename,
		"tags":       s.retag,
	} {
		s.route("POST /api/v2/device/{id}/"+field, writers, s.changeDevice(change))
	}
}

// listDevices serves the list. Each query parameter other than fields is a filter on a field.
func (s *Server) listDevices(w http.ResponseWriter, r *http.Request, _ actor) error {
	filters := r.URL.Query()
	filters.Del("fields")
	listed := []Device{}
	for _, device := range s.tailnet.Devices() {
		passes, err := passes(device, filters)
		if err != nil {
			return err
		}
		if passes {
			listed = append(listed, selectFields(device, r))
		}
	}
	writeJSON(w, http.StatusOK, map[string]any{"devices": listed})
	return nil
}

func selectFields(device Device, r *http.Request) Device {
	if r.URL.Query().Get("fields") != "all" {
		device.AdvertisedRoutes, device.EnabledRoutes, device.ClientConnectivity = nil, nil, nil
	}
	return device
}

// passes says whether the fields of a device have all the values. A list has a value that it contains.
func passes(device Device, filters map[string][]string) (bool, error) {
	text, err := json.Marshal(device)
	if err != nil {
		return false, err
	}
	var fields map[string]any
	if err := json.Unmarshal(text, &fields); err != nil {
		return false, err
	}
	for _, name := range slices.Sorted(maps.Keys(filters)) {
		for _, value := range filters[name] {
			var has bool
			switch field := fields[name].(type) {
			case string:
				has = field == value
			case bool:
				has = strconv.FormatBool(field) == value
			case []any:
				has = slices.Contains(field, any(value))
			}
			if !has {
				return false, nil
			}
		}
	}
	return true, nil
}

func (s *Server) getDevice(w http.ResponseWriter, r *http.Request, _ actor) error {
	device, err := s.findDevice(r)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, selectFields(device, r))
	return nil
}

// findDevice finds the device of a request by its node ID or its old numeric ID.
func (s *Server) findDevice(r *http.Request) (Device, error) {
	id := r.PathValue("id")
	for _, device := range s.tailnet.Devices() {
		if device.NodeID == id || device.ID == id {
			return device, nil
		}
	}
	return Device{}, notFound
}

func (s *Server) deleteDevice(w http.ResponseWriter, r *http.Request, _ actor) error {
	device, err := s.findDevice(r)
	if err != nil {
		return err
	}
	if !s.tailnet.DeleteDevice(device.NodeID) {
		return notFound
	}
	return ok(w)
}

func (s *Server) changeDevice(read func(*http.Request, actor, Device) (DeviceChange, error)) authorized {
	return func(w http.ResponseWriter, r *http.Request, a actor) error {
		device, err := s.findDevice(r)
		if err != nil {
			return err
		}
		change, err := read(r, a, device)
		if err != nil {
			return err
		}
		if !s.tailnet.ChangeDevice(device.NodeID, change) {
			return notFound
		}
		return ok(w)
	}
}

func authorization(r *http.Request, _ actor, _ Device) (change DeviceChange, err error) {
	var body struct {
		Authorized *bool `json:"authorized"`
	}
	err = readJSON(r, &body)
	change.Authorized = body.Authorized
	return change, required(err, "authorized", body.Authorized != nil)
}

func keyExpiry(r *http.Request, _ actor, _ Device) (change DeviceChange, err error) {
	var body struct {
		KeyExpiryDisabled *bool `json:"keyExpiryDisabled"`
	}
	err = readJSON(r, &body)
	change.KeyExpiryDisabled = body.KeyExpiryDisabled
	return change, required(err, "keyExpiryDisabled", body.KeyExpiryDisabled != nil)
}

func rename(r *http.Request, _ actor, _ Device) (change DeviceChange, err error) {
	var body struct {
		Name *string `json:"name"`
	}
	err = readJSON(r, &body)
	change.Name = body.Name
	return change, required(err, "name", body.Name != nil && *body.Name != "")
}

func (s *Server) retag(r *http.Request, a actor, device Device) (change DeviceChange, err error) {
	var body struct {
		Tags *[]string `json:"tags"`
	}
	err = readJSON(r, &body)
	if err := required(err, "tags", body.Tags != nil); err != nil {
		return change, err
	}
	if len(device.Tags) > 0 && len(*body.Tags) == 0 {
		return change, badRequest("tagged nodes cannot be untagged without reauth")
	}
	change.Tags = body.Tags
	return change, s.checkDeviceTags(a, *body.Tags)
}

func required(err error, field string, given bool) error {
	if err == nil && !given {
		return badRequest("%s must be set", field)
	}
	return err
}
