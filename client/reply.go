package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client/internal/rest"
)

// maxReply bounds a reply that is read whole.
const maxReply = 64 << 20

// decode reads the reply to a request as a T, or returns what went wrong.
func decode[T any](resp *http.Response, err error) (T, error) {
	var v T
	if err != nil {
		return v, unreached(err)
	}
	defer drain(resp)
	if err := refusal(resp); err != nil {
		return v, err
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxReply)).Decode(&v); err != nil {
		return v, garbled(err)
	}
	return v, nil
}

// done checks a reply that has no body.
func done(resp *http.Response, err error) error {
	if err != nil {
		return unreached(err)
	}
	defer drain(resp)
	return refusal(resp)
}

// drain makes the connection free for the next request.
func drain(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
	_ = resp.Body.Close()
}

// refusal returns the error a reply stands for, nil for a status of success.
func refusal(resp *http.Response) error {
	if resp.StatusCode < 300 {
		return nil
	}
	head, err := io.ReadAll(io.LimitReader(resp.Body, maxRefusal))
	if err != nil {
		return unreached(err)
	}
	if e := problem(resp, head); e != nil {
		return e
	}
	return dayfly.Errorf(dayfly.Unavailable, "the server answered %s, not as a Dayfly server does: check its address", resp.Status)
}

// maxRefusal bounds the body of a refusal.
const maxRefusal = 64 << 10

// problem reads a refusal of the server, nil if it is none of its own.
func problem(resp *http.Response, body []byte) *dayfly.Error {
	var p rest.Problem
	if mt, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); mt != "application/problem+json" {
		return nil
	}
	if json.Unmarshal(body, &p) != nil || p.Kind == "" {
		return nil
	}
	return &dayfly.Error{Kind: p.Kind, Msg: p.Detail, Stage: p.Stage, RetryAfter: retryAfter(resp)}
}

// unreached is a request that got no reply.
func unreached(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // its URL says nothing: the host name may be made up
	}
	return dayfly.Errorf(dayfly.Unavailable, "server: %w", err)
}

func garbled(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return &dayfly.Error{Kind: dayfly.Unavailable, Msg: "the server's reply was cut or is not as the API says", Err: fmt.Errorf("reply: %w", err)}
}
