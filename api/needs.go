package api

import (
	"context"
	"io"
	"net"
	"time"

	"github.com/dayfly/dayfly"
)

// Workspaces is what a server does with workspaces. Who asks is
// dayfly.CallerOf(ctx): what that caller may not see is NotFound, and what it
// makes belongs to its Home. Errors are *dayfly.Error where a caller may read
// them. Methods are called at the same time.
type Workspaces interface {
	// Create makes and starts a workspace; a cancelled ctx leaves nothing of it,
	// unless o.Wait is WaitCreated or another call waits for the same o.Once.
	Create(ctx context.Context, spec dayfly.Spec, o dayfly.CreateOptions) (dayfly.Workspace, error)
	Start(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error)
	Stop(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error)
	Restart(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error)
	Get(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error)
	List(ctx context.Context, q dayfly.Query) (dayfly.Page, error)
	Update(ctx context.Context, id dayfly.ID, u dayfly.Update) (dayfly.Workspace, error)
	Delete(ctx context.Context, id dayfly.ID) error

	// Resolve finds a workspace by its id, its name, or a beginning of its id
	// that no other has. Several are a Conflict.
	Resolve(ctx context.Context, ref string) (dayfly.ID, error)

	// KeepAlive counts as a use, and moves the end to timeout seconds from now;
	// nil: by the timeout of its spec.
	KeepAlive(ctx context.Context, id dayfly.ID, timeout *int) (dayfly.Workspace, error)

	// Pause returns once memory and disk are safely on this host's disk.
	Pause(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error)
	Resume(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error)
	// Fork makes count running copies of a running workspace, or none.
	Fork(ctx context.Context, id dayfly.ID, count int) ([]dayfly.Workspace, error)
	Rollback(ctx context.Context, id dayfly.ID, ref string) (dayfly.Workspace, error)
}

// Snapshots is what a host does with snapshots, which are found by id or name.
type Snapshots interface {
	// Snapshot keeps a running workspace as it is at one instant; it goes on.
	Snapshot(ctx context.Context, id dayfly.ID, name string) (dayfly.Snapshot, error)
	Snapshots(ctx context.Context) ([]dayfly.Snapshot, error)
	GetSnapshot(ctx context.Context, ref string) (dayfly.Snapshot, error)
	DeleteSnapshot(ctx context.Context, ref string) error
}

// Guests opens streams to ports inside workspaces.
type Guests interface {
	Dial(ctx context.Context, id dayfly.ID, port uint16) (net.Conn, error)
}

// Logs reads what workspaces write. A Read that waits ends when the log is closed.
type Logs interface {
	Log(ctx context.Context, id dayfly.ID, q dayfly.LogQuery) (io.ReadCloser, error)
}

// Meter says what workspaces use.
type Meter interface {
	Metrics(ctx context.Context, id dayfly.ID) (dayfly.Metrics, error)
}

// Events says what happened. Events without a match are an empty list.
type Events interface {
	Events(ctx context.Context, q dayfly.EventQuery) ([]dayfly.Event, error)
	// LastEvent returns the Seq of the newest event, whoever may see it.
	LastEvent(ctx context.Context) (int64, error)
	// AwaitEvent returns when there may be an event with a larger Seq.
	AwaitEvent(ctx context.Context, after int64) error
}

// Webhooks has events sent to URLs.
type Webhooks interface {
	// CreateWebhook returns the webhook with its ID and Secret.
	CreateWebhook(ctx context.Context, w dayfly.Webhook) (dayfly.Webhook, error)
	Webhooks(ctx context.Context) ([]dayfly.Webhook, error)
	Webhook(ctx context.Context, id string) (dayfly.Webhook, error)
	UpdateWebhook(ctx context.Context, w dayfly.Webhook) (dayfly.Webhook, error)
	DeleteWebhook(ctx context.Context, id string) error
	Deliveries(ctx context.Context, webhook string) ([]dayfly.Delivery, error)
}

// Authenticator knows callers by what they show.
type Authenticator interface {
	// Authenticate returns whose key or workspace token it is. revoked is closed
	// when it is no longer valid; nil: it stays so. What is wrong with a token is
	// one Denied error, whatever it is.
	Authenticate(ctx context.Context, token string) (c dayfly.Caller, revoked <-chan struct{}, err error)
}

// Keys makes and revokes what callers show.
type Keys interface {
	// CreateKey uses Name, Namespace and ExpiresAt of k.
	CreateKey(ctx context.Context, k dayfly.Key) (key dayfly.Key, secret string, err error)
	Keys(ctx context.Context) ([]dayfly.Key, error)
	RevokeKey(ctx context.Context, id string) error
	CreateToken(ctx context.Context, id dayfly.ID, life time.Duration) (dayfly.Token, error)
}

// Namespaces is what a server does with namespaces.
type Namespaces interface {
	CreateNamespace(ctx context.Context, n dayfly.Namespace) (dayfly.Namespace, error)
	Namespace(ctx context.Context, name string) (dayfly.Namespace, error)
	Namespaces(ctx context.Context) ([]dayfly.Namespace, error)
	UpdateNamespace(ctx context.Context, n dayfly.Namespace) (dayfly.Namespace, error)
	DeleteNamespace(ctx context.Context, name string) error
	Quota(ctx context.Context, name string) (dayfly.Quota, error)
}

// Audit keeps who changed what.
type Audit interface {
	// AddAudit returns once the entry is kept: the caller is answered then. It
	// waits a moment for a store that is away, and not for ever.
	AddAudit(ctx context.Context, e dayfly.AuditEntry)
	Audit(ctx context.Context, q dayfly.AuditQuery) ([]dayfly.AuditEntry, error)
}

// Health says whether workspaces can be placed: nil if so.
type Health interface {
	Ready(ctx context.Context) error
}

// System says what is on the host's disk, and removes what can be made again.
type System interface {
	Usage(ctx context.Context) ([]dayfly.Usage, error)
	Prune(ctx context.Context) ([]dayfly.Usage, error)
}

// Report takes progress of long work. It may be called from several goroutines,
// but not after the work has returned.
type Report = func(dayfly.Progress)

// Images is what a host does with images.
type Images interface {
	List(ctx context.Context) ([]dayfly.Image, error)
	Get(ctx context.Context, name string) (dayfly.Image, error)
	Remove(ctx context.Context, name string) error
	Pull(ctx context.Context, p PullImage, report Report) (dayfly.Image, error)
	Import(ctx context.Context, p ImportImageParams, archive io.Reader, report Report) ([]dayfly.Image, error)
	Build(ctx context.Context, b BuildImage, report Report) (dayfly.Image, error)
}

// Kernels is what a host does with guest kernels.
type Kernels interface {
	List(ctx context.Context) ([]dayfly.Kernel, error)
	Import(ctx context.Context, deb io.Reader, report Report) (dayfly.Kernel, error)
	Build(ctx context.Context, report Report) (dayfly.Kernel, error)
}

// HostChecks says what a host can do.
type HostChecks interface {
	Checks(ctx context.Context) []dayfly.Check
}
