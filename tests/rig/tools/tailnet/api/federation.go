package api

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

// exchangeToken serves workload identity federation: an access token for a token of a trusted issuer.
// Whatever does not match has the same answer.
func (s *Server) exchangeToken(w http.ResponseWriter, r *http.Request) error {
	client, found := s.findClient(r.PostFormValue("client_id"))
	if !found || client.Issuer == "" {
		return unauthorized
	}
	if err := s.checkToken(client, r.PostFormValue("jwt")); err != nil {
		s.note(r, err.Error())
		return unauthorized
	}
	return s.grantToken(w, client.ID, client.Scopes, client.Tags)
}

func (s *Server) checkToken(client client, jwt string) error {
	header, claims, err := s.verify(client.Issuer, jwt)
	if err != nil {
		return err
	}
	now := s.now()
	switch {
	case claims.Issuer != client.Issuer:
		return fmt.Errorf("the issuer is %q", claims.Issuer)
	case !matches(client.Subject, claims.Subject):
		return fmt.Errorf("the subject is %q", claims.Subject)
	case !slices.Contains(claims.Audience, client.Audience):
		return fmt.Errorf("the audience is %q", claims.Audience)
	case claims.Expires == 0 || !now.Before(time.Unix(claims.Expires, 0)):
		return fmt.Errorf("the token has expired")
	case now.Before(time.Unix(claims.NotBefore, 0)):
		return fmt.Errorf("the token is not valid yet")
	}
	var all map[string]any
	if err := json.Unmarshal(header.payload, &all); err != nil {
		return err
	}
	for name, pattern := range client.CustomClaimRules {
		if value, isText := all[name].(string); !isText || !matches(pattern, value) {
			return fmt.Errorf("the claim %s is %v", name, all[name])
		}
	}
	return nil
}

// matches compares with a pattern in which * stands for any text.
func matches(pattern, text string) bool {
	expression := strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, ".*")
	return regexp.MustCompile("^(?s:" + expression + ")$").MatchString(text)
}

// claims are the claims of RFC 7519 that every token is judged by.
type claims struct {
	Issuer    string   `json:"iss"`
	Subject   string   `json:"sub"`
	Audience  audience `json:"aud"`
	Expires   int64    `json:"exp"`
	NotBefore int64    `json:"nbf"`
}

// audience is a text or a list of texts.
type audience []string

func (a *audience) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*a = audience{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(a))
}

// joseHeader is the header of a signed token, with the token's payload.
type joseHeader struct {
	Algorithm string `json:"alg"`
	KeyID     string `json:"kid"`
	payload   []byte
}

// verify checks the signature of a token of an issuer.
func (s *Server) verify(issuer, jwt string) (joseHeader, claims, error) {
	var header joseHeader
	var claims claims
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return header, claims, fmt.Errorf("the token has %d parts", len(parts))
	}
	var decoded [3][]byte
	for i, part := range parts {
		var err error
		if decoded[i], err = base64.RawURLEncoding.DecodeString(part); err != nil {
			return header, claims, err
		}
	}
	if err := json.Unmarshal(decoded[0], &header); err != nil {
		return header, claims, err
	}
	header.payload = decoded[1]
	if err := json.Unmarshal(decoded[1], &claims); err != nil {
		return header, claims, err
	}
	s.mu.Lock()
	keys := s.issuers[issuer]
	s.mu.Unlock()
	for _, key := range keys {
		if key.id == header.KeyID && key.verifies(header.Algorithm, parts[0]+"."+parts[1], decoded[2]) {
			return header, claims, nil
		}
	}
	return header, claims, fmt.Errorf("no key of %s has signed the token", issuer)
}

// publicKey is a key of an issuer.
type publicKey struct {
	id  string
	rsa *rsa.PublicKey
	ec  *ecdsa.PublicKey
}

func (k publicKey) verifies(algorithm, text string, signature []byte) bool {
	digest := sha256.Sum256([]byte(text))
	switch {
	case algorithm == "RS256" && k.rsa != nil:
		return rsa.VerifyPKCS1v15(k.rsa, crypto.SHA256, digest[:], signature) == nil
	case algorithm == "ES256" && k.ec != nil && len(signature) == 64:
		r, s := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
		return ecdsa.Verify(k.ec, digest[:], r, s)
	}
	return false
}

// TrustIssuer replaces the keys of an issuer by those of a JSON Web Key Set (RFC 7517).
func (s *Server) TrustIssuer(issuer string, set []byte) error {
	var parsed struct {
		Keys []struct{ Kid, Kty, Crv, N, E, X, Y string }
	}
	if err := json.Unmarshal(set, &parsed); err != nil {
		return badRequest("invalid key set: %v", err)
	}
	var keys []publicKey
	for _, key := range parsed.Keys {
		number := func(text string) *big.Int {
			data, _ := base64.RawURLEncoding.DecodeString(text)
			return new(big.Int).SetBytes(data)
		}
		switch {
		case key.Kty == "RSA":
			public := &rsa.PublicKey{N: number(key.N), E: int(number(key.E).Int64())}
			keys = append(keys, publicKey{id: key.Kid, rsa: public})
		case key.Kty == "EC" && key.Crv == "P-256":
			public := &ecdsa.PublicKey{Curve: elliptic.P256(), X: number(key.X), Y: number(key.Y)}
			keys = append(keys, publicKey{id: key.Kid, ec: public})
		}
	}
	if len(keys) == 0 {
		return badRequest("the key set has no RSA key and no P-256 key")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.issuers[issuer] = keys
	return nil
}
