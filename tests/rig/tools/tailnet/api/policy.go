package api

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"slices"

	"github.com/tailscale/hujson"
)

const (
	typeJSON   = "application/json"
	typeHuJSON = "application/hujson"
	// tagUntouched is the entity tag of a policy that nobody has replaced.
	tagUntouched = `"ts-default"`
)

func (s *Server) policyRoutes() {
	// The other two are needed beside the scope of the policy file, and no refusal names them.
	companions := []string{read(scopeDevices), read(scopePosture)}
	readers := append([]string{read(scopePolicy)}, companions...)
	writers := append([]string{scopePolicy}, companions...)
	s.route("GET /api/v2/tailnet/{tailnet}/acl", readers, s.getPolicy)
	s.route("POST /api/v2/tailnet/{tailnet}/acl", writers, s.setPolicy)
	s.route("POST /api/v2/tailnet/{tailnet}/acl/validate", readers, s.validatePolicy)
	s.route("POST /api/v2/tailnet/{tailnet}/acl/preview", readers, s.previewPolicy)
}

// entityTag is a checksum of the formatted text, in quotes.
func entityTag(text string) string {
	formatted, err := hujson.Format([]byte(text))
	if err != nil {
		formatted = []byte(text)
	}
	sum := sha256.Sum256(formatted)
	return `"` + hex.EncodeToString(sum[:]) + `"`
}

func (s *Server) getPolicy(w http.ResponseWriter, r *http.Request, _ actor) error {
	text := s.tailnet.Policy().Text
	w.Header().Set("ETag", entityTag(text))
	if r.FormValue("details") == "true" {
		warnings := []string{}
		for _, complaint := range s.tailnet.PolicyWarnings(text) {
			warnings = append(warnings, complaint.Warnings...)
		}
		writeJSON(w, http.StatusOK, map[string]any{
			"acl":      base64.StdEncoding.EncodeToString([]byte(text)),
			"warnings": warnings,
			"errors":   []string{},
		})
		return nil
	}
	return writePolicy(w, r, text)
}

// writePolicy answers with a policy: as JSON if the request asks for that, and else as it was written.
func writePolicy(w http.ResponseWriter, r *http.Request, text string) error {
	wanted := typeHuJSON
	body := []byte(text)
	if r.Header.Get("Accept") == typeJSON {
		wanted = typeJSON
		var err error
		if body, err = hujson.Standardize(body); err != nil {
			return err
		}
	}
	w.Header().Set("Content-Type", wanted)
	_, err := w.Write(body)
	return err
}

// readPolicy reads the body of a request with a policy file.
func readPolicy(r *http.Request) (string, error) {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != typeJSON && kind != typeHuJSON {
		return "", badRequest("Content-Type must be %s or %s", typeJSON, typeHuJSON)
	}
	data, err := readBody(r)
	if err != nil {
		return "", err
	}
	if kind == typeJSON && !json.Valid(data) {
		return "", badRequest("invalid JSON: send HuJSON as %s", typeHuJSON)
	}
	return string(data), nil
}

func (s *Server) setPolicy(w http.ResponseWriter, r *http.Request, _ actor) error {
	text, err := readPolicy(r)
	if err != nil {
		return err
	}
	wanted := r.Header.Get("If-Match")
	err = s.tailnet.ReplacePolicy(text, func(current PolicyText) error {
		untouched := wanted == tagUntouched && current.Untouched
		if wanted != "" && wanted != entityTag(current.Text) && !untouched {
			message := "precondition failed, invalid old hash"
			return &Refusal{Status: http.StatusPreconditionFailed, Message: message}
		}
		return nil
	})
	if err != nil {
		return refused(err)
	}
	w.Header().Set("ETag", entityTag(text))
	return writePolicy(w, r, text)
}

// refused makes an error of a policy the answer to a write.
func refused(err error) error {
	if refusal := new(Refusal); errors.As(err, &refusal) {
		if refusal.Status == 0 {
			return &Refusal{Status: http.StatusBadRequest, Message: refusal.Message, Data: refusal.Data}
		}
		return refusal
	}
	return badRequest("%v", err)
}

// validatePolicy checks a whole policy, or a list of tests against the policy in force. The answer to
// one that fails has the status 200 too.
func (s *Server) validatePolicy(w http.ResponseWriter, r *http.Request, _ actor) error {
	text, err := readPolicy(r)
	if err != nil {
		return err
	}
	value, err := hujson.Parse([]byte(text))
	if err != nil {
		return badRequest("%v", err)
	}
	value.Standardize()
	var warnings []Complaint
	if value.Value.Kind() == '[' {
		err = s.tailnet.CheckTests(value.Pack())
	} else if err = s.tailnet.CheckPolicy(text); err == nil {
		warnings = s.tailnet.PolicyWarnings(text)
	}
	refusal := &Refusal{}
	switch {
	case errors.As(err, &refusal):
		writeJSON(w, http.StatusOK, refusal)
	case err != nil:
		writeJSON(w, http.StatusOK, Refusal{Message: err.Error()})
	case len(warnings) > 0:
		writeJSON(w, http.StatusOK, Refusal{Message: "warning(s) found", Data: warnings})
	default:
		w.WriteHeader(http.StatusOK)
	}
	return nil
}

func (s *Server) previewPolicy(w http.ResponseWriter, r *http.Request, _ actor) error {
	text, err := readPolicy(r)
	if err != nil {
		return err
	}
	var query PreviewQuery
	kind, previewFor := r.URL.Query().Get("type"), r.URL.Query().Get("previewFor")
	switch {
	case previewFor == "":
		return badRequest("previewFor must be set")
	case kind == "user":
		query.User = previewFor
	case kind == "ipport":
		query.Destination = previewFor
	default:
		return badRequest("type must be user or ipport")
	}
	matches, err := s.tailnet.PreviewPolicy(text, query)
	if err != nil {
		return refused(err)
	}
	if matches == nil {
		matches = []PreviewMatch{}
	}
	matches = slices.Clip(matches)
	writeJSON(w, http.StatusOK, map[string]any{"matches": matches, "type": kind, "previewFor": previewFor})
	return nil
}
