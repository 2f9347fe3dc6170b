package firecracker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/dayfly/dayfly"
)

// limits bounds how long Firecracker may take.
type limits struct {
	answer time.Duration // to a request that only changes a few things, and to listen at all
	copy   time.Duration // to one that reads or writes files
}

// defaultLimits are far beyond what a loaded host needs.
var defaultLimits = limits{answer: 10 * time.Second, copy: 5 * time.Minute}

// maxAnswer bounds what is read of an answer, in bytes; a kilobyte is usual.
const maxAnswer = 64 << 10

// api is a client of one Firecracker. Its methods may be called at the same
// time: Firecracker answers one request after the other.
type api struct {
	http   *http.Client
	limits limits
}

// newAPI makes a client that connects by dial, whatever address it is given.
func newAPI(dial func(context.Context) (net.Conn, error), l limits) *api {
	return &api{
		limits: l,
		http: &http.Client{Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
			// Firecracker has room for ten connections, and one is enough.
			MaxConnsPerHost: 1, MaxIdleConnsPerHost: 1,
			DisableCompression:     true,
			MaxResponseHeaderBytes: maxAnswer,
		}},
	}
}

func (a *api) close() { a.http.CloseIdleConnections() }

// request is one thing to ask.
type request struct {
	method, path string
	body         any
	slow         bool // it reads or writes files
}

func (r request) String() string { return r.method + " " + r.path }

// fault is a refusal, in Firecracker's words. A guest may have chosen them.
type fault struct {
	request string
	status  int
	message string
}

func (f *fault) Error() string {
	return fmt.Sprintf("firecracker: %s: %d: %.500q", f.request, f.status, f.message)
}

// do carries out a request. out, unless nil, takes the answer. The error is a
// fault, a dayfly.Unavailable one where nothing answers in time, or ctx's.
func (a *api) do(ctx context.Context, r request, out any) error {
	limit := a.limits.answer
	if r.slow {
		limit = a.limits.copy
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, silent(r.String(), limit))
	defer cancel()
	err := a.exchange(ctx, r, out)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// silent is the error of a Firecracker that does not answer.
func silent(what string, limit time.Duration) error {
	return dayfly.Errorf(dayfly.Unavailable, "firecracker does not answer its API within %s (%s): it hangs, or this host is overloaded; try again", limit, what)
}

func (a *api) exchange(ctx context.Context, r request, out any) error {
	var body io.Reader
	if r.body != nil {
		b, err := json.Marshal(r.body)
		if err != nil {
			return fmt.Errorf("firecracker: %s: %w", r, err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, "http://localhost"+r.path, body)
	if err != nil {
		return fmt.Errorf("firecracker: %s: %w", r, err)
	}
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return fmt.Errorf("firecracker: %s: %w", r, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && len(text) > maxAnswer {
		err = errors.New("the answer has no end")
	}
	if err != nil {
		return fmt.Errorf("firecracker: %s: %w", r, err)
	}
	return understand(r, resp.StatusCode, text, out)
}

// understand reads an answer.
func understand(r request, status int, text []byte, out any) error {
	if status != http.StatusOK && status != http.StatusNoContent {
		var said struct {
			Message string `json:"fault_message"`
		}
		if json.Unmarshal(text, &said) != nil || said.Message == "" {
			said.Message = string(text[:min(len(text), 500)])
		}
		return &fault{r.String(), status, said.Message}
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("firecracker: %s: the answer makes no sense: %w", r, err)
	}
	return nil
}
