package client

import (
	"context"
	"net/http"

	"github.com/dayfly/dayfly/client/internal/rest"
)

// onceHeader is where an idempotency key is sent.
const onceHeader = "Idempotency-Key"

// Option changes one call.
type Option func(*http.Request)

// Once makes a creation idempotent: the same call with the same key, within a
// day, makes nothing more and returns what the first one made. It is then
// repeated by itself while the server is too busy. Of Keys.Create, whose secret
// is told once, a repeated call is a Conflict that names the key. An empty key is
// none.
func Once(key string) Option {
	return func(r *http.Request) { r.Header.Set(onceHeader, key) }
}

// with applies options to a request.
func with(options []Option) rest.RequestEditorFn {
	return func(_ context.Context, r *http.Request) error {
		for _, o := range options {
			o(r)
		}
		if r.Header.Get(onceHeader) == "" {
			r.Header.Del(onceHeader) // which was set to nothing
		}
		return nil
	}
}
