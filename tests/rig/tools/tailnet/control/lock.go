package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"

	"tailscale.com/tailcfg"
	"tailscale.com/tka"
	"tailscale.com/tstest/tkatest"
)

// capLock lets a device initialize Tailnet Lock and follow its state.
const capLock = tailcfg.CapabilityTailnetLock

// lock is the state of Tailnet Lock. Devices sign and verify; control stores what they send.
type lock struct {
	// proposed is the first update of a key authority whose initialization has begun.
	proposed *tka.AUM
	// storage has the updates of the authority, while Tailnet Lock is enabled.
	storage *tka.Mem
	// genesis is the first of them.
	genesis *tka.AUM
	// secret has disabled Tailnet Lock. Devices verify it before they believe that.
	secret []byte
}

// lockRoutes handles the requests of devices. Handlers of tkatest read the request and answer it.
func (t *tailnet) lockRoutes(mux *http.ServeMux) {
	for path, route := range map[string]struct {
		handle     func(http.ResponseWriter, *http.Request) error
		changesMap bool
	}{
		"init/begin":  {t.lockInitBegin, false},
		"init/finish": {t.lockInitFinish, true},
		"bootstrap":   {t.lockBootstrap, false},
		"sync/offer":  {t.lockSyncOffer, false},
		"sync/send":   {t.lockSyncSend, true},
		"sign":        {t.lockSign, true},
		"disable":     {t.lockDisable, true},
	} {
		mux.HandleFunc("/machine/tka/"+path, func(w http.ResponseWriter, r *http.Request) {
			t.mu.Lock()
			err := route.handle(w, r)
			t.mu.Unlock()
			// This takes the mutex, too.
			if err == nil && route.changesMap {
				t.notify()
			}
		})
	}
}

func (t *tailnet) lockInitBegin(w http.ResponseWriter, r *http.Request) (err error) {
	t.lock.proposed, err = tkatest.HandleTKAInitBegin(w, r, maps.Values(t.nodes))
	return err
}

func (t *tailnet) lockInitFinish(w http.ResponseWriter, r *http.Request) error {
	if t.lock.proposed == nil {
		return refuse(w, errors.New("initialization has not begun"))
	}
	signatures, err := tkatest.HandleTKAInitFinish(w, r)
	if err != nil {
		return err
	}
	storage := tka.ChonkMem()
	if _, err := tka.Bootstrap(storage, *t.lock.proposed); err != nil {
		return err
	}
	for _, node := range t.nodes {
		node.KeySignature = signatures[node.ID]
	}
	t.lock = lock{storage: storage, genesis: t.lock.proposed}
	return nil
}

func (t *tailnet) lockBootstrap(w http.ResponseWriter, r *http.Request) error {
	response := tailcfg.TKABootstrapResponse{DisablementSecret: t.lock.secret}
	if t.lock.genesis != nil {
		response.GenesisAUM = t.lock.genesis.Serialize()
	}
	_, err := tkatest.HandleTKABootstrap(w, r, response)
	return err
}

func (t *tailnet) lockSyncOffer(w http.ResponseWriter, r *http.Request) error {
	authority, err := t.authority()
	if err != nil {
		return refuse(w, err)
	}
	return tkatest.HandleTKASyncOffer(w, r, authority, t.lock.storage)
}

func (t *tailnet) lockSyncSend(w http.ResponseWriter, r *http.Request) error {
	authority, err := t.authority()
	if err != nil {
		return refuse(w, err)
	}
	return tkatest.HandleTKASyncSend(w, r, authority, t.lock.storage)
}

func (t *tailnet) lockSign(w http.ResponseWriter, r *http.Request) error {
	authority, err := t.authority()
	if err != nil {
		return refuse(w, err)
	}
	signature, signed, err := tkatest.HandleTKASign(w, r, authority)
	if err != nil {
		return err
	}
	if node := t.nodes[*signed]; node != nil {
		node.KeySignature = *signature
	}
	return nil
}

func (t *tailnet) lockDisable(w http.ResponseWriter, r *http.Request) error {
	var request tailcfg.TKADisableRequest
	if !read(w, r, &request) {
		return errors.New("the request does not parse")
	}
	authority, err := t.authority()
	if err != nil {
		return refuse(w, err)
	}
	if !authority.ValidDisablement(request.DisablementSecret) {
		return refuse(w, errors.New("the disablement secret is wrong"))
	}
	t.lock = lock{secret: request.DisablementSecret}
	return json.NewEncoder(w).Encode(tailcfg.TKADisableResponse{})
}

func refuse(w http.ResponseWriter, err error) error {
	http.Error(w, err.Error(), http.StatusBadRequest)
	return err
}

// authority is the key authority, while Tailnet Lock is enabled. The caller holds t.mu.
func (t *tailnet) authority() (*tka.Authority, error) {
	if t.lock.storage == nil {
		return nil, errors.New("Tailnet Lock is not enabled")
	}
	return tka.Open(t.lock.storage)
}

// info is what maps say about Tailnet Lock; nothing if it has never been enabled. The caller holds
// the mutex of the tailnet.
func (l *lock) info() (*tailcfg.TKAInfo, error) {
	if l.storage == nil {
		if l.secret == nil {
			return nil, nil
		}
		return &tailcfg.TKAInfo{Disabled: true}, nil
	}
	authority, err := tka.Open(l.storage)
	if err != nil {
		return nil, fmt.Errorf("Tailnet Lock: %w", err)
	}
	return &tailcfg.TKAInfo{Head: authority.Head().String()}, nil
}
