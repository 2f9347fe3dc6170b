package api

import (
	"net/http"
	"time"

	"github.com/dayfly/dayfly"
)

var errNoKeys = lacking("keys")

// tokenLife is that of a workspace token for which none is named.
const tokenLife = time.Hour

// maxLabel bounds the name of a key.
const maxLabel = 255

// ListKeys answers GET /v1/keys.
func (s routes) ListKeys(w http.ResponseWriter, r *http.Request) {
	s.try(w, r, s.o.Keys != nil, errNoKeys, func() error {
		list, err := s.o.Keys.Keys(r.Context())
		if err == nil {
			s.reply(w, r, http.StatusOK, KeyList{Keys: orEmpty(list)})
		}
		return err
	})
}

// CreateKey answers POST /v1/keys.
func (s routes) CreateKey(w http.ResponseWriter, r *http.Request, p CreateKeyParams) {
	s.try(w, r, s.o.Keys != nil, errNoKeys, func() error {
		var body CreateKey
		if err := readOptionalJSON(w, r, &body); err != nil {
			return err
		}
		if len(body.Name) > maxLabel {
			return dayfly.Errorf(dayfly.Invalid, "name is %d bytes: use at most %d", len(body.Name), maxLabel)
		}
		if body.Namespace != "" {
			if err := dayfly.CheckNamespace(body.Namespace); err != nil {
				return err
			}
		}
		if body.ExpiresAt != nil && !body.ExpiresAt.After(time.Now()) {
			return dayfly.Errorf(dayfly.Invalid, "expires_at is %s: name a time to come", body.ExpiresAt.Format(time.RFC3339))
		}
		ctx, err := once(r, p.IdempotencyKey)
		if err != nil {
			return err
		}
		key, secret, err := s.o.Keys.CreateKey(ctx, dayfly.Key{Name: body.Name, Namespace: body.Namespace, ExpiresAt: body.ExpiresAt})
		if err != nil {
			return err
		}
		exchangeOf(r).target = key.ID
		s.reply(w, r, http.StatusCreated, NewKey{Key: key, Secret: secret})
		return nil
	})
}

// RevokeKey answers DELETE /v1/keys/{key}.
func (s routes) RevokeKey(w http.ResponseWriter, r *http.Request, key KeyID) {
	s.try(w, r, s.o.Keys != nil, errNoKeys, func() error {
		exchangeOf(r).target = clip(key)
		err := s.o.Keys.RevokeKey(r.Context(), key)
		if err == nil {
			noContent(w)
		}
		return err
	})
}

// CreateToken answers POST /v1/workspaces/{id}/token.
func (s routes) CreateToken(w http.ResponseWriter, r *http.Request, id WorkspaceID) {
	s.try(w, r, s.o.Keys != nil, errNoKeys, func() error {
		id, err := s.resolve(r, id)
		if err != nil {
			return err
		}
		var body CreateToken
		if err := readOptionalJSON(w, r, &body); err != nil {
			return err
		}
		life := tokenLife
		if body.LifeS != nil {
			life = time.Duration(*body.LifeS) * time.Second
		}
		if longest := int(dayfly.MaxTokenLife.Seconds()); body.LifeS != nil && (*body.LifeS < 1 || *body.LifeS > longest) {
			return dayfly.Errorf(dayfly.Invalid, "life is %d s: use 1 to %d", *body.LifeS, longest)
		}
		token, err := s.o.Keys.CreateToken(r.Context(), id, life)
		if err == nil {
			s.reply(w, r, http.StatusCreated, token)
		}
		return err
	})
}

// try answers r with do's error, or with that of a server that lacks what do needs.
func (s *Server) try(w http.ResponseWriter, r *http.Request, has bool, otherwise error, do func() error) {
	err := otherwise
	if has {
		err = do()
	}
	if err != nil {
		s.refuse(w, r, err)
	}
}
