package api

import (
	"context"
	"net/http"
	"strings"

	"github.com/dayfly/dayfly"
)

// maxOnce bounds an idempotency key.
const maxOnce = 255

// checkOnce refuses an idempotency key that does not come back as it is.
func checkOnce(key string, sent int) error {
	printable := func(r rune) bool { return ' ' < r && r <= '~' }
	if sent == 0 {
		return nil
	}
	if sent > 1 || key == "" || len(key) > maxOnce || strings.ContainsFunc(key, func(r rune) bool { return !printable(r) }) {
		return dayfly.Errorf(dayfly.Invalid, "Idempotency-Key: send one, of 1 to %d printable ASCII characters without spaces", maxOnce)
	}
	return nil
}

// once is the context of a request that makes something, which is done once for
// its idempotency key, if it has one.
func once(r *http.Request, key string) (context.Context, error) {
	if err := checkOnce(key, len(r.Header.Values("Idempotency-Key"))); err != nil {
		return nil, err
	}
	c := dayfly.CallerOf(r.Context())
	c.Once = key
	return dayfly.WithCaller(r.Context(), c), nil
}
