package api_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/api"
)

// chaos is a server's other side that answers each call with what there may be,
// or with any error.
type chaos struct {
	mu  sync.Mutex
	rnd *rand.Rand
}

func newChaos(seed int64) *chaos { return &chaos{rnd: rand.New(rand.NewSource(seed))} }

func (c *chaos) options() api.Options {
	return api.Options{
		Workspaces: c, Snapshots: c, Guests: c, Logs: c, Meter: c, Events: c, Webhooks: c, Keys: c, Namespaces: c, Audit: c, Health: c,
		Images: chaosImages{c}, Kernels: chaosKernels{c}, Host: c, System: c, Auth: c,
	}
}

func (c *chaos) n(below int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rnd.Intn(below)
}

// either is nil, or any error.
func (c *chaos) either() error {
	kinds := []dayfly.Kind{dayfly.Invalid, dayfly.Denied, dayfly.NotFound, dayfly.Conflict, dayfly.Internal, dayfly.Unavailable, dayfly.Exhausted, "unknown", ""}
	switch c.n(4) {
	case 0:
		return &dayfly.Error{Kind: kinds[c.n(len(kinds))], Msg: "why", Stage: "vmm", Err: errors.New(secret), RetryAfter: time.Duration(c.n(3)) * 700 * time.Millisecond}
	case 1:
		all := []error{errors.New(secret), io.EOF, context.Canceled, fmt.Errorf("%w: "+secret, context.DeadlineExceeded), net.ErrClosed, http.ErrBodyReadAfterClose}
		return all[c.n(len(all))]
	}
	return nil
}

// secret is in causes, and never in an answer.
const secret = "/var/lib/secret"

var (
	chaosAt   = time.Date(2026, 11, 25, 1, 2, 3, 4, time.UTC)
	chaosID   = dayfly.ID("wabcdefghijklmnopqrst")
	chaosExit = &dayfly.Exit{Code: 137, Signal: 9, At: chaosAt}
	chaosSpec = dayfly.Spec{
		Image: "base", Name: "n", CPUs: 2, MemoryMiB: 512, DiskMiB: 64, Env: map[string]string{"A": "b"}, User: "u", Workdir: "/", Accel: dayfly.KVM,
		Cold: true, Keep: true, Timeout: 3, OnTimeout: dayfly.PauseIt, Metadata: map[string]string{"k": "v"}, Idle: dayfly.Idle{PauseAfter: 1, StopAfter: 2},
		Restart: dayfly.Restart{Policy: dayfly.RestartNo, Max: 1}, Command: []string{"a"}, ImageCommand: true, RemoveOnExit: true,
		Ready: dayfly.ReadyCheck{Command: []string{"true"}, Timeout: 1},
	}
	chaosImage = dayfly.Image{Name: "base", Digest: "sha256:1", Platform: "linux/amd64", Size: 1, CreatedAt: chaosAt, Config: dayfly.ImageConfig{Env: []string{"A=b"}, Cmd: []string{"sh"}}}
	chaosWS    = dayfly.Workspace{
		ID: chaosID, Name: "n", State: dayfly.Paused, Reason: "r", Spec: chaosSpec, Image: chaosImage, Kernel: "k", StartKind: dayfly.Claim, StartNote: "s",
		Parent: "p", Accel: dayfly.TCG, CreatedAt: chaosAt, Timeline: dayfly.Timeline{{Name: "a", At: 1, Took: 2, Within: "b"}}, Namespace: "default",
		Ready: true, ExpiresAt: &chaosAt, UsedAt: &chaosAt, Restarts: 2, Exit: chaosExit,
	}
	chaosEvent = dayfly.Event{Seq: 7, ID: "e", Type: dayfly.WorkspaceExited, At: chaosAt, Namespace: "n", Workspace: chaosID, State: dayfly.Failed, Reason: "r", Exit: chaosExit, Actor: "k"}
	chaosHook  = dayfly.Webhook{ID: "h", Namespace: "n", URL: "https://x", Types: []dayfly.EventType{dayfly.WorkspaceReady}, Active: true, CreatedAt: chaosAt, Secret: "whsec_x"}
	chaosKey   = dayfly.Key{ID: "k", Name: "n", Namespace: "n", CreatedAt: chaosAt, ExpiresAt: &chaosAt, RevokedAt: &chaosAt, UsedAt: &chaosAt}
	chaosNS    = dayfly.Namespace{Name: "n", CreatedAt: chaosAt, Suspended: true, Limits: dayfly.Limits{Workspaces: 1, WorkspaceCPUs: 3}, Metadata: map[string]string{"a": "b"}}
)

// pick is a full value, or an error.
func pick[T any](c *chaos, full T) (T, error) {
	var none T
	if err := c.either(); err != nil {
		return none, err
	}
	return full, nil
}

// few is a list of none or some.
func few[T any](c *chaos, v T) ([]T, error) {
	var list []T
	for range c.n(3) {
		list = append(list, v)
	}
	return list, c.either()
}

func (c *chaos) ws() (dayfly.Workspace, error) {
	bare := dayfly.Workspace{ID: chaosID, State: dayfly.Creating, Spec: dayfly.Spec{Image: "base"}, CreatedAt: chaosAt}
	if c.n(2) == 0 {
		return pick(c, bare)
	}
	return pick(c, chaosWS)
}

func (c *chaos) Create(context.Context, dayfly.Spec, dayfly.CreateOptions) (dayfly.Workspace, error) {
	return c.ws()
}
func (c *chaos) Start(context.Context, dayfly.ID) (dayfly.Workspace, error)   { return c.ws() }
func (c *chaos) Stop(context.Context, dayfly.ID) (dayfly.Workspace, error)    { return c.ws() }
func (c *chaos) Restart(context.Context, dayfly.ID) (dayfly.Workspace, error) { return c.ws() }
func (c *chaos) Get(context.Context, dayfly.ID) (dayfly.Workspace, error)     { return c.ws() }
func (c *chaos) Pause(context.Context, dayfly.ID) (dayfly.Workspace, error)   { return c.ws() }
func (c *chaos) Resume(context.Context, dayfly.ID) (dayfly.Workspace, error)  { return c.ws() }
func (c *chaos) Delete(context.Context, dayfly.ID) error                      { return c.either() }
func (c *chaos) Rollback(context.Context, dayfly.ID, string) (dayfly.Workspace, error) {
	return c.ws()
}
func (c *chaos) KeepAlive(context.Context, dayfly.ID, *int) (dayfly.Workspace, error) {
	return c.ws()
}
func (c *chaos) Update(context.Context, dayfly.ID, dayfly.Update) (dayfly.Workspace, error) {
	return c.ws()
}
func (c *chaos) Resolve(context.Context, string) (dayfly.ID, error) { return pick(c, chaosID) }
func (c *chaos) Fork(context.Context, dayfly.ID, int) ([]dayfly.Workspace, error) {
	return few(c, chaosWS)
}

func (c *chaos) List(context.Context, dayfly.Query) (dayfly.Page, error) {
	list, err := few(c, chaosWS)
	return dayfly.Page{Workspaces: list, Next: "next"}, err
}

func (c *chaos) snap() dayfly.Snapshot {
	return dayfly.Snapshot{ID: chaosID, Name: "s", Workspace: chaosID, CreatedAt: chaosAt, Spec: chaosSpec, Image: chaosImage, Kernel: "k", Accel: dayfly.KVM, RAMBytes: 1, PausedMS: 1.5}
}
func (c *chaos) Snapshot(context.Context, dayfly.ID, string) (dayfly.Snapshot, error) {
	return pick(c, c.snap())
}
func (c *chaos) Snapshots(context.Context) ([]dayfly.Snapshot, error) { return few(c, c.snap()) }
func (c *chaos) GetSnapshot(context.Context, string) (dayfly.Snapshot, error) {
	return pick(c, c.snap())
}
func (c *chaos) DeleteSnapshot(context.Context, string) error { return c.either() }

// Dial leads to a guest that answers whatever it likes.
func (c *chaos) Dial(context.Context, dayfly.ID, uint16) (net.Conn, error) {
	if err := c.either(); err != nil {
		return nil, err
	}
	near, far := net.Pipe()
	go func() {
		defer far.Close()
		_ = far.SetDeadline(time.Now().Add(time.Second))
		buf := make([]byte, 64<<10)
		if _, err := far.Read(buf); err != nil {
			return
		}
		bodies := []string{"", "{}", `{"code":"not_found","message":"no"}`, `{"code":5,"message":"no"}`, "\x00\x00\x00\x00\x02{}", strings.Repeat("x", 1000), `{"entry":{"name":"x","path":"/x"}}`, `[]`}
		types := []string{"application/json", "application/connect+json", "text/html", "application/problem+json"}
		statuses := []int{200, 204, 206, 304, 400, 401, 404, 409, 416, 418, 500, 507, 101, 999, 100, 302}
		switch body := bodies[c.n(len(bodies))]; c.n(4) {
		case 0:
			_, _ = io.WriteString(far, "nonsense\r\n\r\n"+body)
		default:
			_, _ = fmt.Fprintf(far, "HTTP/1.1 %d Whatever\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\nSet-Cookie: a=b\r\n\r\n%s",
				statuses[c.n(len(statuses))], types[c.n(len(types))], len(body)+c.n(2), body)
		}
	}()
	return near, nil
}

func (c *chaos) Log(context.Context, dayfly.ID, dayfly.LogQuery) (io.ReadCloser, error) {
	logs := []string{"", "one line", "two\nlines\n", "\xff\xfe\n", strings.Repeat("long", 50_000)}
	return pick(c, io.NopCloser(io.Reader(strings.NewReader(logs[c.n(len(logs))]))))
}

func (c *chaos) Metrics(context.Context, dayfly.ID) (dayfly.Metrics, error) {
	return pick(c, dayfly.Metrics{At: chaosAt, CPUs: 1, CPUSeconds: 1.5, UptimeS: 1})
}
func (c *chaos) Events(context.Context, dayfly.EventQuery) ([]dayfly.Event, error) {
	return few(c, chaosEvent)
}
func (c *chaos) LastEvent(context.Context) (int64, error) { return pick(c, int64(3)) }
func (c *chaos) AwaitEvent(context.Context, int64) error  { return c.either() }

func (c *chaos) CreateWebhook(context.Context, dayfly.Webhook) (dayfly.Webhook, error) {
	return pick(c, chaosHook)
}
func (c *chaos) Webhooks(context.Context) ([]dayfly.Webhook, error) { return few(c, chaosHook) }
func (c *chaos) Webhook(context.Context, string) (dayfly.Webhook, error) {
	return pick(c, chaosHook)
}
func (c *chaos) UpdateWebhook(_ context.Context, w dayfly.Webhook) (dayfly.Webhook, error) {
	return pick(c, w)
}
func (c *chaos) DeleteWebhook(context.Context, string) error { return c.either() }
func (c *chaos) Deliveries(context.Context, string) ([]dayfly.Delivery, error) {
	return few(c, dayfly.Delivery{Webhook: "h", Event: chaosEvent, Attempts: 1, Status: 500, Error: "e", DoneAt: &chaosAt, NextAt: &chaosAt, SentAt: &chaosAt})
}

func (c *chaos) Authenticate(context.Context, string) (dayfly.Caller, <-chan struct{}, error) {
	switch c.n(8) {
	case 0:
		return dayfly.Caller{}, nil, c.either()
	case 1:
		return dayfly.Caller{Key: "k", Namespace: "n", Bound: true}, nil, nil
	case 2:
		return dayfly.Caller{Key: "k", Namespace: "n", Bound: true, Workspace: chaosID}, nil, nil
	case 3:
		revoked := make(chan struct{})
		close(revoked)
		return dayfly.Caller{Key: "k"}, revoked, nil
	}
	return dayfly.Caller{Key: "k"}, nil, nil
}

func (c *chaos) CreateKey(context.Context, dayfly.Key) (dayfly.Key, string, error) {
	k, err := pick(c, chaosKey)
	return k, "dfk_k_s", err
}
func (c *chaos) Keys(context.Context) ([]dayfly.Key, error) { return few(c, chaosKey) }
func (c *chaos) RevokeKey(context.Context, string) error    { return c.either() }
func (c *chaos) CreateToken(context.Context, dayfly.ID, time.Duration) (dayfly.Token, error) {
	return pick(c, dayfly.Token{Token: "dft_x", Workspace: chaosID, ExpiresAt: chaosAt})
}

func (c *chaos) CreateNamespace(context.Context, dayfly.Namespace) (dayfly.Namespace, error) {
	return pick(c, chaosNS)
}
func (c *chaos) Namespace(context.Context, string) (dayfly.Namespace, error) {
	return pick(c, chaosNS)
}
func (c *chaos) Namespaces(context.Context) ([]dayfly.Namespace, error) { return few(c, chaosNS) }
func (c *chaos) UpdateNamespace(context.Context, dayfly.Namespace) (dayfly.Namespace, error) {
	return pick(c, dayfly.Namespace{Name: "n", CreatedAt: chaosAt})
}
func (c *chaos) DeleteNamespace(context.Context, string) error { return c.either() }
func (c *chaos) Quota(context.Context, string) (dayfly.Quota, error) {
	return pick(c, dayfly.Quota{Namespace: "n", Limits: chaosNS.Limits})
}

func (c *chaos) AddAudit(context.Context, dayfly.AuditEntry) {}
func (c *chaos) Audit(context.Context, dayfly.AuditQuery) ([]dayfly.AuditEntry, error) {
	return few(c, dayfly.AuditEntry{Seq: 1, At: chaosAt, Key: "k", Namespace: "n", From: "local", Action: "POST /v1/keys", Target: "t", Status: 201, Request: "r"})
}
func (c *chaos) Ready(context.Context) error { return c.either() }
func (c *chaos) Usage(context.Context) ([]dayfly.Usage, error) {
	return few(c, dayfly.Usage{Kind: "images", Count: 1})
}
func (c *chaos) Prune(ctx context.Context) ([]dayfly.Usage, error) { return c.Usage(ctx) }
func (c *chaos) Checks(context.Context) []dayfly.Check {
	list, _ := few(c, dayfly.Check{Name: "kvm", Status: dayfly.Broken, Detail: "d", Remedy: "r"})
	return list
}

type chaosImages struct{ *chaos }

func (c chaosImages) List(context.Context) ([]dayfly.Image, error) { return few(c.chaos, chaosImage) }
func (c chaosImages) Get(context.Context, string) (dayfly.Image, error) {
	return pick(c.chaos, chaosImage)
}
func (c chaosImages) Remove(context.Context, string) error { return c.either() }
func (c chaosImages) Pull(_ context.Context, _ api.PullImage, report api.Report) (dayfly.Image, error) {
	for range c.n(3) {
		report(dayfly.Progress{Step: "s", Done: int64(c.n(9)), Total: 9})
	}
	return pick(c.chaos, chaosImage)
}
func (c chaosImages) Import(_ context.Context, _ api.ImportImageParams, _ io.Reader, _ api.Report) ([]dayfly.Image, error) {
	return few(c.chaos, chaosImage)
}
func (c chaosImages) Build(ctx context.Context, _ api.BuildImage, report api.Report) (dayfly.Image, error) {
	return c.Pull(ctx, api.PullImage{}, report)
}

type chaosKernels struct{ *chaos }

var chaosKernel = dayfly.Kernel{ID: "k", Release: "6.12", Flavour: "tuned", Preferred: true, Size: 1}

func (c chaosKernels) List(context.Context) ([]dayfly.Kernel, error) {
	return few(c.chaos, chaosKernel)
}
func (c chaosKernels) Import(context.Context, io.Reader, api.Report) (dayfly.Kernel, error) {
	return pick(c.chaos, chaosKernel)
}
func (c chaosKernels) Build(context.Context, api.Report) (dayfly.Kernel, error) {
	return pick(c.chaos, chaosKernel)
}
