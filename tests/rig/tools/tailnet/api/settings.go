package api

import (
	"encoding/json"
	"net/http"
)

// settings are settings of the tailnet that the control server follows.
type settings struct {
	DevicesApprovalOn bool `json:"devicesApprovalOn"`
}

func (s *Server) settingRoutes() {
	s.route("GET /api/v2/tailnet/{tailnet}/settings", []string{read(scopeSettings)}, s.getSettings)
	s.route("PATCH /api/v2/tailnet/{tailnet}/settings", []string{scopeSettings}, s.changeSettings)
}

func (s *Server) getSettings(w http.ResponseWriter, _ *http.Request, _ actor) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	writeJSON(w, http.StatusOK, s.settings)
	return nil
}

// changeSettings replaces the settings that a request has. Others are not known here, and ignored.
func (s *Server) changeSettings(w http.ResponseWriter, r *http.Request, _ actor) error {
	data, err := readBody(r)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := json.Unmarshal(data, &s.settings); err != nil {
		return badRequest("invalid request body: %v", err)
	}
	writeJSON(w, http.StatusOK, s.settings)
	return nil
}

// ApprovalRequired says whether a device that joins without a preauthorized key needs approval.
func (s *Server) ApprovalRequired() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.settings.DevicesApprovalOn
}
