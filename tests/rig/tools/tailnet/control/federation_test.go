package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"net/url"
	"testing"
	"time"

	client "tailscale.com/client/tailscale/v2"
)

const (
	issuer  = "https://kubernetes.default.svc"
	subject = "system:serviceaccount:peer-relay:operator"
)

// cluster issues tokens.
type cluster struct {
	rsa *rsa.PrivateKey
	ec  *ecdsa.PrivateKey
}

func newCluster(w world) cluster {
	first, err := rsa.GenerateKey(rand.Reader, 2048)
	ok(w, first, err)
	second, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ok(w, second, err)
	encode := base64.RawURLEncoding.EncodeToString
	set := fmt.Sprintf(`{"keys": [{"kid": "r", "kty": "RSA", "n": %q, "e": %q},
		{"kid": "e", "kty": "EC", "crv": "P-256", "x": %q, "y": %q}]}`,
		encode(first.N.Bytes()), encode(big.NewInt(int64(first.E)).Bytes()),
		encode(second.X.Bytes()), encode(second.Y.Bytes()))
	ok(w, 0, w.tailnet.api.TrustIssuer(issuer, []byte(set)))
	return cluster{first, second}
}

func (c cluster) token(algorithm string, claims map[string]any) string {
	encode := base64.RawURLEncoding.EncodeToString
	id := map[string]string{"RS256": "r", "ES256": "e"}[algorithm]
	payload, _ := json.Marshal(claims)
	text := encode(fmt.Appendf(nil, `{"alg": %q, "kid": %q}`, algorithm, id)) + "." + encode(payload)
	digest := sha256.Sum256([]byte(text))
	var signature []byte
	if algorithm == "RS256" {
		signature, _ = rsa.SignPKCS1v15(rand.Reader, c.rsa, crypto.SHA256, digest[:])
	} else {
		r, s, _ := ecdsa.Sign(rand.Reader, c.ec, digest[:])
		signature = make([]byte, 64)
		r.FillBytes(signature[:32])
		s.FillBytes(signature[32:])
	}
	return text + "." + encode(signature)
}

func (w world) federated() *client.Key {
	w.Helper()
	created, err := w.admin().Keys().CreateFederatedIdentity(w.Context(), client.CreateFederatedIdentityRequest{
		Scopes: []string{"auth_keys"}, Tags: []string{"tag:op"},
		Issuer: issuer, Subject: "system:serviceaccount:peer-relay:*",
	})
	return ok(w, created, err)
}

func claimsFor(identity *client.Key) map[string]any {
	return map[string]any{
		"iss": issuer, "sub": subject, "aud": []string{identity.Audience},
		"exp": time.Now().Add(time.Hour).Unix(),
	}
}

func TestClientExchangesTokensOfATrustedIssuer(t *testing.T) {
	w := newWorld(t)
	cluster, identity := newCluster(w), w.federated()
	if identity.Audience != "api.tailscale.com/"+identity.ID {
		t.Errorf("the audience is %s", identity.Audience)
	}
	for _, algorithm := range []string{"RS256", "ES256"} {
		token := cluster.token(algorithm, claimsFor(identity))
		auth := &client.IdentityFederation{ClientID: identity.ID, IDTokenFunc: func() (string, error) { return token, nil }}
		minted, err := w.client(&client.Client{Auth: auth}).Keys().Create(t.Context(), keyRequest(false, "tag:relay-a"))
		ok(w, minted, err)
		if told := w.device().register(minted.Key); told != "" {
			t.Error(told)
		}
	}
}

func TestTokensThatDoNotMatchAreRefusedAlike(t *testing.T) {
	w := newWorld(t)
	cluster, identity := newCluster(w), w.federated()
	good := claimsFor(identity)
	with := func(name string, value any) string {
		claims := maps.Clone(good)
		claims[name] = value
		return cluster.token("RS256", claims)
	}
	for name, token := range map[string]string{
		"issuer":    with("iss", "https://other.example.com"),
		"subject":   with("sub", "system:serviceaccount:default:operator"),
		"audience":  with("aud", "https://kubernetes.default.svc"),
		"expired":   with("exp", time.Now().Add(-time.Minute).Unix()),
		"early":     with("nbf", time.Now().Add(time.Minute).Unix()),
		"signature": cluster.token("RS256", good) + "AA",
		"parts":     "one.two",
	} {
		got := w.exchange(identity.ID, token)
		if w.wants(got, 403, "Unauthorized"); t.Failed() {
			t.Fatalf("of %s", name)
		}
	}
	requests := w.tailnet.api.Requests()
	if last := requests[len(requests)-1]; last.Note == "" {
		t.Errorf("the record has no reason: %+v", last)
	}
	w.wants(w.exchange("kNoneCNTRL", cluster.token("RS256", good)), 403, "Unauthorized")
}

func (w world) exchange(id, token string) answer {
	w.Helper()
	form := url.Values{"client_id": {id}, "jwt": {token}}
	header := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	return w.send("POST", "/api/v2/oauth/token-exchange", header, form.Encode())
}
