package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest/wire"
)

// edge is a transport on the way to a guest. It returns what the server itself
// refuses as a *dayfly.Error and leaves alone what the guest answers.
type edge struct{ next http.RoundTripper }

func (e edge) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := e.next.RoundTrip(req)
	if err != nil || resp.StatusCode < 400 {
		return resp, err
	}
	head, err := io.ReadAll(io.LimitReader(resp.Body, maxRefusal))
	if err != nil {
		_ = resp.Body.Close()
		return nil, err
	}
	if e := problem(resp, head); e != nil {
		_ = resp.Body.Close()
		return nil, e
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(head), resp.Body), resp.Body}
	return resp, nil
}

// guestError turns the error of an in-guest procedure into one of ours.
func guestError(err error) error {
	if err == nil {
		return nil
	}
	var ours *dayfly.Error
	var theirs *wire.Error
	switch {
	case errors.As(err, &ours):
		return ours
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case !errors.As(err, &theirs):
		theirs = &wire.Error{Code: wire.Unknown, Message: err.Error(), Err: err}
	}
	kind, ok := theirs.Code.Kind()
	if !ok {
		kind = dayfly.Internal
	}
	e := dayfly.Errorf(kind, "%w", message{theirs})
	e.Stage = "guest"
	return e
}

// message is an error of the wire whose text is only what a user wants to read.
type message struct{ e *wire.Error }

func (m message) Error() string { return m.e.Message }
func (m message) Unwrap() error { return m.e }

// lost is the error of a process whose end was not seen.
func lost(err error) error {
	err = guestError(err)
	var e *dayfly.Error
	if errors.As(err, &e) && e.Kind == dayfly.Unavailable {
		return &dayfly.Error{Kind: dayfly.Unavailable, Stage: "guest", Msg: "the connection to the command was lost", Err: e}
	}
	return err
}

// ExitCode returns what a shell would exit with for an error of Start: 127 for
// a command that is not there, 126 for one that cannot be executed. For other
// errors it returns false.
func ExitCode(err error) (code int, ok bool) { return wire.StartFailure(err) }
