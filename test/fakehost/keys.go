package fakehost

import (
	"context"
	"crypto/rand"
	"slices"
	"strings"
	"time"

	"github.com/dayfly/dayfly"
)

var errToken = dayfly.Errorf(dayfly.Denied, "the key is not valid: it is unknown, revoked or expired")

// Authenticate knows AdminKey and what was made of it.
func (s server) Authenticate(_ context.Context, token string) (dayfly.Caller, <-chan struct{}, error) {
	s.sv.mu.Lock()
	defer s.sv.mu.Unlock()
	for _, k := range s.sv.keys {
		if k.secret == token && k.Valid(time.Now()) {
			return dayfly.Caller{Key: k.ID, Namespace: k.Namespace, Bound: k.Namespace != "", Workspace: k.workspace}, k.revoked, nil
		}
	}
	return dayfly.Caller{}, nil, errToken
}

func (s server) add(k *key) *key {
	s.sv.mu.Lock()
	defer s.sv.mu.Unlock()
	k.CreatedAt, k.revoked = time.Now().UTC(), make(chan struct{})
	s.sv.keys = append(s.sv.keys, k)
	return k
}

// CreateKey makes a key, which is not kept from expiring.
func (s server) CreateKey(ctx context.Context, k dayfly.Key) (dayfly.Key, string, error) {
	s.note(ctx)
	s.sv.mu.Lock()
	_, known := s.sv.namespaces[k.Namespace]
	s.sv.mu.Unlock()
	if k.Namespace != "" && !known {
		return dayfly.Key{}, "", dayfly.Errorf(dayfly.NotFound, "there is no namespace %s", k.Namespace)
	}
	k.ID = strings.ToLower(rand.Text()[:8])
	made := s.add(&key{Key: k, secret: "dfk_" + k.ID + "_" + strings.ToLower(rand.Text())})
	return made.Key, made.secret, nil
}

// Keys returns the keys that the caller sees, newest first.
func (s server) Keys(ctx context.Context) ([]dayfly.Key, error) {
	s.sv.mu.Lock()
	defer s.sv.mu.Unlock()
	c := dayfly.CallerOf(ctx)
	var list []dayfly.Key
	for _, k := range slices.Backward(s.sv.keys) {
		if k.workspace == "" && (!c.Bound || c.Namespace == k.Namespace) {
			list = append(list, k.Key)
		}
	}
	return list, nil
}

// RevokeKey ends a key at once.
func (s server) RevokeKey(_ context.Context, id string) error {
	s.sv.mu.Lock()
	defer s.sv.mu.Unlock()
	for _, k := range s.sv.keys {
		if k.ID != id {
			continue
		}
		if k.RevokedAt == nil {
			now := time.Now().UTC()
			k.RevokedAt = &now
			close(k.revoked)
		}
		return nil
	}
	return dayfly.Errorf(dayfly.NotFound, "there is no key %s", id)
}

// CreateToken makes a token of a workspace.
func (h *Host) CreateToken(ctx context.Context, id dayfly.ID, life time.Duration) (dayfly.Token, error) {
	ws, err := h.Get(ctx, id)
	if err != nil {
		return dayfly.Token{}, err
	}
	end := time.Now().UTC().Add(life)
	k := h.add(&key{
		Key: dayfly.Key{Namespace: ws.Namespace, ExpiresAt: &end}, workspace: id, secret: "dft_" + strings.ToLower(rand.Text()),
	})
	return dayfly.Token{Token: k.secret, Workspace: id, ExpiresAt: end}, nil
}
