// Package control decides what becomes of the workspaces of a server: who may
// see them, whether there is room for one more, when they end, pause or start
// again by a rule, and who is told.
//
// The store remembers, the node does. A record in the store is the caller's
// view of a workspace and outlives everything; whether its machine runs is true
// at the node alone. In this package one goroutine per workspace, its keeper,
// merges what the node reports, what callers ask and what the clock demands, and
// writes the record:
//
//	caller ──► Control ──► keeper ──► node    start, stop, pause, delete
//	                       ▲ │ ▲
//	     node.Changed ─────┘ │ └───── clock   expiry, idle, restarts
//	                         ▼
//	                       store ──► events ──► webhooks, AwaitEvent
//
// Always true: what was acknowledged to a caller is in the store; whatever counts
// as running in the store was reserved there before the node was asked; a
// workspace that the caller may not see is not found, in every method; a store
// that cannot be reached stops new placements and nothing else: Get and Dial,
// rules and the ends of workspaces go on, and records are written when it is
// back. List, Resolve by name, events and everything about keys and namespaces
// are Unavailable meanwhile, but for keys that were used within the last minute.
//
// Open begins with every record, whatever the process before it was killed at:
// see reconcile.go.
package control

import (
	"context"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/control/webhook"
	"github.com/dayfly/dayfly/store"
)

// Node is the host's part: *node.Node has it. Its specs have no Timeout, since
// the rules are ours.
type Node interface {
	// CreateAdmitted calls admit with the new workspace before anything of it is
	// on the disk. An error of admit, or of the start, leaves nothing.
	CreateAdmitted(ctx context.Context, spec dayfly.Spec, admit func(dayfly.Workspace) error) (dayfly.Workspace, error)
	// CreateAs makes a workspace whose making was cut off.
	CreateAs(ctx context.Context, id dayfly.ID, spec dayfly.Spec) (dayfly.Workspace, error)
	ForkAdmitted(ctx context.Context, id dayfly.ID, count int, admit func([]dayfly.Workspace) error) ([]dayfly.Workspace, error)
	Start(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error)
	Stop(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error)
	Pause(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error)
	Resume(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error)
	Rollback(ctx context.Context, id dayfly.ID, ref string) (dayfly.Workspace, error)
	Update(ctx context.Context, id dayfly.ID, spec dayfly.Spec) (dayfly.Workspace, error)
	Delete(ctx context.Context, id dayfly.ID) error
	Get(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error)
	// Ours lists the workspaces that this process runs, or may take: all but those
	// that another process runs.
	Ours(ctx context.Context) ([]dayfly.Workspace, error)
	Dial(ctx context.Context, id dayfly.ID, port uint16) (net.Conn, error)
	Console(ctx context.Context, id dayfly.ID) ([]byte, error)
	Snapshot(ctx context.Context, id dayfly.ID, name string) (dayfly.Snapshot, error)
	Snapshots(ctx context.Context) ([]dayfly.Snapshot, error)
	GetSnapshot(ctx context.Context, ref string) (dayfly.Snapshot, error)
	DeleteSnapshot(ctx context.Context, ref string) error
}

// Store is the memory of a server: *store.Store has it.
type Store interface {
	webhook.Store
	Ping(ctx context.Context) error
	Create(ctx context.Context, c store.Creation) ([]store.Record, bool, error)
	Update(ctx context.Context, c store.Change) (store.Record, error)
	Find(ctx context.Context, namespace, ref string) (store.Record, error)
	List(ctx context.Context, q dayfly.Query) (store.Page, error)
	Each(ctx context.Context, f func(store.Record) error) error
	Forget(ctx context.Context, namespace, key string) error
	Made(ctx context.Context, once store.Once) ([]string, bool, error)
	Acknowledge(ctx context.Context, once store.Once, list ...dayfly.ID) error

	CreateNamespace(ctx context.Context, n dayfly.Namespace, once store.Once) error
	Namespace(ctx context.Context, name string) (dayfly.Namespace, error)
	Namespaces(ctx context.Context) ([]dayfly.Namespace, error)
	UpdateNamespace(ctx context.Context, n dayfly.Namespace) error
	DeleteNamespace(ctx context.Context, name string) error
	Quota(ctx context.Context, name string) (dayfly.Quota, error)

	CreateKey(ctx context.Context, k store.KeyRecord, once store.Once) error
	Key(ctx context.Context, id string) (store.KeyRecord, error)
	Keys(ctx context.Context, namespace string) ([]dayfly.Key, error)
	RevokeKey(ctx context.Context, id string, at time.Time) error
	TouchKeys(ctx context.Context, used map[string]time.Time) error

	CreateSnapshot(ctx context.Context, r store.SnapshotRecord, once store.Once, ev ...dayfly.Event) error
	BeginSnapshot(ctx context.Context, u store.SnapshotUnderWay) error
	EndSnapshot(ctx context.Context, once store.Once) error
	SnapshotsUnderWay(ctx context.Context) ([]store.SnapshotUnderWay, error)
	Snapshot(ctx context.Context, namespace, ref string) (store.SnapshotRecord, error)
	Snapshots(ctx context.Context, namespace string) ([]store.SnapshotRecord, error)
	DeleteSnapshot(ctx context.Context, id dayfly.ID, ev ...dayfly.Event) error

	Events(ctx context.Context, q dayfly.EventQuery) ([]dayfly.Event, error)
	CreateWebhook(ctx context.Context, w dayfly.Webhook, once store.Once) error
	UpdateWebhook(ctx context.Context, w dayfly.Webhook) error
	DeleteWebhook(ctx context.Context, id string) error
	Deliveries(ctx context.Context, webhook string, limit int) ([]dayfly.Delivery, error)
	AddAudit(ctx context.Context, e ...dayfly.AuditEntry) error
	Audit(ctx context.Context, q dayfly.AuditQuery) ([]dayfly.AuditEntry, error)
	Prune(ctx context.Context, before time.Time) error
}

// Options are what a Control is made of.
type Options struct {
	Node  Node
	Store Store
	Log   *slog.Logger

	// LogDir is where the output of main commands is kept, made if it is not
	// there.
	LogDir string

	// TokenKey signs workspace tokens: 32 random bytes that outlive the process.
	TokenKey []byte

	// Starts is how many workspaces are started at the same time; default: the
	// number of CPUs. Queue is how many callers may wait for one of these places;
	// default 64.
	Starts, Queue int

	// PrivateWebhooks lets webhooks reach loopback and private addresses.
	PrivateWebhooks bool

	// Retention is how long events, deliveries and audit entries are kept;
	// default 30 days.
	Retention time.Duration

	// HostUse says what a workspace takes of the host. Nil: Metrics have the
	// guest's side alone.
	HostUse func(ctx context.Context, id dayfly.ID) (Use, error)

	// Observe is called once per stage of each start, from several goroutines.
	Observe func(kind dayfly.StartKind, stage string, ms float64)

	// Now is the wall clock; default time.Now.
	Now func() time.Time
}

func (o *Options) defaults() {
	if o.Starts <= 0 {
		o.Starts = runtime.NumCPU()
	}
	if o.Queue <= 0 {
		o.Queue = 64
	}
	if o.Retention <= 0 {
		o.Retention = 30 * 24 * time.Hour
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Observe == nil {
		o.Observe = func(dayfly.StartKind, string, float64) {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
}

// Control is the workspaces of a server. Its methods may be called at the same
// time.
type Control struct {
	opt   Options
	node  Node
	db    Store
	log   *slog.Logger
	gate  *gate
	bell  bell // rung when there are new events
	life  lives
	hooks *webhook.Sender
	count counters
	audit ledger
	turns turns

	settled chan struct{}   // closed when every record has been reconciled
	closing chan struct{}   // closed when Close begins: no rule fires any more
	quit    chan struct{}   // closed when the keepers are to let go
	ended   context.Context //nolint:containedctx // the life of the server, which what it does by itself is bound to
	end     context.CancelFunc
	ops     underway       // what is being done at the node
	tasks   sync.WaitGroup // every goroutine

	closed atomic.Bool
	mu     sync.Mutex // guards keepers
	keeper map[dayfly.ID]*keeper
}

// Open returns a Control that settles, in the background, what a process before
// it left: Ready says when it has. Until then calls are Unavailable. The node
// must call Changed from then on; what it did before is asked for.
func Open(ctx context.Context, o Options) (*Control, error) {
	o.defaults()
	if err := openLogDir(o.LogDir); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c := &Control{
		opt: o, node: o.Node, db: o.Store, log: o.Log,
		gate: newGate(o.Starts, o.Queue), keeper: map[dayfly.ID]*keeper{},
		settled: make(chan struct{}), closing: make(chan struct{}), quit: make(chan struct{}),
	}
	c.ended, c.end = context.WithCancel(context.WithoutCancel(ctx))
	c.life.init()
	c.audit.wake = make(chan struct{}, 1)
	c.hooks = webhook.New(webhook.Options{Store: o.Store, Log: o.Log, Private: o.PrivateWebhooks, Now: c.now})
	c.bell.also = c.hooks.Wake
	for _, task := range []func(context.Context){c.settle, c.hooks.Run, c.flushAudit, c.flushKeys, c.prune, c.compare} {
		c.tasks.Go(func() { task(c.ended) })
	}
	return c, nil
}

// drain is how long Close waits for what is under way at the node before it cuts
// it off.
const drain = 20 * time.Second

// Close takes no more placements, waits for what is under way, writes what is to
// be written and lets go of the workspaces, which the node goes on running. It
// may be called twice.
func (c *Control) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	close(c.closing)
	idle := c.ops.close()
	late := time.NewTimer(drain)
	defer late.Stop()
	select {
	case <-idle:
	case <-late.C:
		c.log.Warn("shutdown cuts off what is under way", "waited", drain)
	}
	c.end()
	<-idle
	close(c.quit)
	c.tasks.Wait()
	c.life.close()
	return nil
}

// Ready returns nil when every record has been reconciled with the node and the
// store answers.
func (c *Control) Ready(ctx context.Context) error {
	if err := c.open(); err != nil {
		return err
	}
	return c.counted(c.db.Ping(ctx))
}

// Changed takes in what the node says of a workspace. It does not wait.
func (c *Control) Changed(ws dayfly.Workspace) {
	k := c.keeperOf(ws.ID)
	if k != nil {
		k.mail.put(ws)
	}
}

// open refuses calls before the records are settled, and after Close.
func (c *Control) open() error {
	if c.closed.Load() {
		return unavailable(5*time.Second, "the server is shutting down: try again when it is back")
	}
	select {
	case <-c.settled:
		return nil
	default:
		return unavailable(time.Second, "the server has just started and looks after its workspaces first: try again")
	}
}

func unavailable(after time.Duration, msg string) error {
	err := dayfly.Errorf(dayfly.Unavailable, "%s", msg)
	err.RetryAfter = after
	return err
}

// now is wall time: stored deadlines are compared with it, whatever steps the
// clock makes.
func (c *Control) now() time.Time { return c.opt.Now().Round(0).UTC() }

// keeperOf returns nil for a workspace that has none.
func (c *Control) keeperOf(id dayfly.ID) *keeper {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.keeper[id]
}

// find returns the keeper of a workspace that the caller may see.
func (c *Control) find(ctx context.Context, id dayfly.ID) (*keeper, error) {
	if err := c.open(); err != nil {
		return nil, err
	}
	k := c.keeperOf(id)
	if k == nil {
		return nil, notFound(id)
	}
	ws := &k.view.Load().Workspace
	if ws.State == dayfly.Deleted || !dayfly.CallerOf(ctx).Sees(*ws) { // its record may still wait for the store
		return nil, notFound(id)
	}
	return k, nil
}

// manage is find for what a workspace token does not allow.
func (c *Control) manage(ctx context.Context, id dayfly.ID) (*keeper, error) {
	k, err := c.find(ctx, id)
	if err != nil {
		return nil, err
	}
	return k, noToken(ctx)
}

func noToken(ctx context.Context) error {
	if dayfly.CallerOf(ctx).Workspace != "" {
		return dayfly.Errorf(dayfly.Denied, "a workspace token allows the use of its workspace and nothing else: use an API key")
	}
	return nil
}

func adminOnly(ctx context.Context, what string) error {
	if !dayfly.CallerOf(ctx).Admin() {
		return dayfly.Errorf(dayfly.Denied, "%s are for admins: use an admin's key", what)
	}
	return nil
}

func notFound(id dayfly.ID) error {
	return dayfly.Errorf(dayfly.NotFound, "there is no workspace %s", id)
}
