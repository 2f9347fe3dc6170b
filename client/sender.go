package client

import (
	"context"
	"net/http"
	"strconv"
	"time"
)

// Bounds on repeating a request that the server is too busy for.
const (
	maxTries = 4
	maxWait  = 15 * time.Second // a server that asks for more is taken at its word, by the caller
)

// sender is a transport that shows the caller's key, and asks again where the
// server says when to and doing so twice does no harm.
type sender struct {
	key, namespace string
	next           http.RoundTripper
}

// RoundTrip sends a request, perhaps more than once.
func (s *sender) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	if s.key != "" {
		// Not Authorization, which names a user to the in-guest API.
		r.Header.Set("X-API-Key", s.key)
	}
	if s.namespace != "" {
		r.Header.Set("Dayfly-Namespace", s.namespace)
	}
	for try := 1; ; try++ {
		resp, err := s.next.RoundTrip(r)
		if err != nil || try == maxTries || !again(r, resp) {
			return resp, err
		}
		if r.GetBody != nil {
			if r.Body, err = r.GetBody(); err != nil {
				return resp, nil //nolint:nilerr // then this answer is the last
			}
		}
		wait := retryAfter(resp)
		drain(resp)
		if err := pause(r.Context(), wait); err != nil {
			return nil, err
		}
	}
}

// CloseIdleConnections is for http.Client.
func (s *sender) CloseIdleConnections() {
	if t, ok := s.next.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// again says whether a request is to be repeated after an answer.
func again(r *http.Request, resp *http.Response) bool {
	busy := resp.StatusCode == http.StatusServiceUnavailable || resp.StatusCode == http.StatusTooManyRequests
	wait := retryAfter(resp)
	if !busy || wait <= 0 || wait > maxWait {
		return false
	}
	replayable := r.Body == nil || r.Body == http.NoBody || r.GetBody != nil
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return replayable
	case http.MethodPost:
		return replayable && r.Header.Get(onceHeader) != ""
	}
	return false
}

// retryAfter is how long the server wants to be left alone, 0 if it does not say.
func retryAfter(resp *http.Response) time.Duration {
	n, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	const most = 24 * 60 * 60
	if err != nil || n < 0 || n > most {
		return 0
	}
	return time.Duration(n) * time.Second
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
