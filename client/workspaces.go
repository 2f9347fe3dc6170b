package client

import (
	"context"
	"io"
	"iter"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client/internal/rest"
)

// Workspaces makes, finds and deletes workspaces.
type Workspaces struct{ c *Client }

// Create makes a workspace and returns once it is ready. If ctx ends before
// that, nothing is left of it.
func (w *Workspaces) Create(ctx context.Context, spec dayfly.Spec) (dayfly.Workspace, error) {
	return w.CreateWith(ctx, spec, dayfly.CreateOptions{})
}

// CreateWith is Create with options. With o.Once set, nothing is lost or made
// twice if the call is repeated, as it is while the server is too busy.
func (w *Workspaces) CreateWith(ctx context.Context, spec dayfly.Spec, o dayfly.CreateOptions) (dayfly.Workspace, error) {
	p := rest.CreateWorkspaceParams{Wait: o.Wait, IdempotencyKey: o.Once}
	return decode[dayfly.Workspace](w.c.rest.CreateWorkspace(ctx, &p, spec, with(nil)))
}

// List returns all workspaces that the caller sees, newest first.
func (w *Workspaces) List(ctx context.Context) ([]dayfly.Workspace, error) {
	var list []dayfly.Workspace
	for ws, err := range w.All(ctx, dayfly.Query{Limit: dayfly.MaxPage}) {
		if err != nil {
			return nil, err
		}
		list = append(list, ws)
	}
	return list, nil
}

// Page returns a page of workspaces. Its Next is the Cursor of the next one.
func (w *Workspaces) Page(ctx context.Context, q dayfly.Query) (dayfly.Page, error) {
	p := rest.ListWorkspacesParams{
		State: q.States, Name: q.Name, Image: q.Image, Namespace: q.Namespace, Order: q.Order, Cursor: q.Cursor, Limit: positive(q.Limit),
	}
	for k, v := range q.Metadata {
		p.Metadata = append(p.Metadata, k+"="+v)
	}
	return decode[dayfly.Page](w.c.rest.ListWorkspaces(ctx, &p))
}

// All goes through the workspaces that q selects, page by page. An error ends it.
func (w *Workspaces) All(ctx context.Context, q dayfly.Query) iter.Seq2[dayfly.Workspace, error] {
	return func(yield func(dayfly.Workspace, error) bool) {
		for {
			page, err := w.Page(ctx, q)
			if err != nil {
				yield(dayfly.Workspace{}, err)
				return
			}
			for _, ws := range page.Workspaces {
				if !yield(ws, nil) {
					return
				}
			}
			if q.Cursor = page.Next; q.Cursor == "" {
				return
			}
		}
	}
}

// positive leaves a number that is 0 to the server.
func positive[T int | int64](n T) *T {
	if n == 0 {
		return nil
	}
	return &n
}

// Get returns one workspace.
func (w *Workspaces) Get(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	return decode[dayfly.Workspace](w.c.rest.GetWorkspace(ctx, string(id)))
}

// Start starts a stopped workspace from its disk and returns once it runs. A
// paused one goes on where it was, as with Resume.
func (w *Workspaces) Start(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	return decode[dayfly.Workspace](w.c.rest.StartWorkspace(ctx, string(id)))
}

// Stop ends a workspace's processes in order and keeps its disk and key.
func (w *Workspaces) Stop(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	return decode[dayfly.Workspace](w.c.rest.StopWorkspace(ctx, string(id)))
}

// Pause saves a running workspace, memory and disk, and ends its machine. It
// returns once all is safely on the server's disk; ctx ends only the waiting.
func (w *Workspaces) Pause(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	return decode[dayfly.Workspace](w.c.rest.PauseWorkspace(ctx, string(id)))
}

// Resume lets a paused workspace go on where it was and returns once it runs.
func (w *Workspaces) Resume(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	return decode[dayfly.Workspace](w.c.rest.ResumeWorkspace(ctx, string(id)))
}

// Fork makes count running copies of a running workspace, at most
// dayfly.MaxFork. After an error, or if ctx ends before it returns, there is none.
func (w *Workspaces) Fork(ctx context.Context, id dayfly.ID, count int, o ...Option) ([]dayfly.Workspace, error) {
	l, err := decode[dayfly.Page](w.c.rest.ForkWorkspace(ctx, string(id), &rest.ForkWorkspaceParams{}, rest.ForkWorkspace{Count: &count}, with(o)))
	return l.Workspaces, err
}

// Rollback puts a workspace back to where it was when a snapshot, named by id
// or name, was taken of it, and returns once it runs. What happened in it since
// is lost; ctx ends only the waiting.
func (w *Workspaces) Rollback(ctx context.Context, id dayfly.ID, snapshot string) (dayfly.Workspace, error) {
	return decode[dayfly.Workspace](w.c.rest.RollbackWorkspace(ctx, string(id), rest.RollbackWorkspace{Snapshot: snapshot}))
}

// Delete ends a workspace in any state and forgets its key and disk. Deleting
// it again is a NotFound error.
func (w *Workspaces) Delete(ctx context.Context, id dayfly.ID) error {
	return done(w.c.rest.DeleteWorkspace(ctx, string(id)))
}

// Restart stops a workspace and starts it from its disk; ctx ends only the waiting.
func (w *Workspaces) Restart(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	return decode[dayfly.Workspace](w.c.rest.RestartWorkspace(ctx, string(id)))
}

// Update changes a workspace's name, metadata, rules or resources.
func (w *Workspaces) Update(ctx context.Context, id dayfly.ID, u dayfly.Update) (dayfly.Workspace, error) {
	return decode[dayfly.Workspace](w.c.rest.UpdateWorkspace(ctx, string(id), u))
}

// KeepAlive counts as a use of a workspace, and moves its end to timeout seconds
// from now; nil: by the timeout of its spec.
func (w *Workspaces) KeepAlive(ctx context.Context, id dayfly.ID, timeout *int) (dayfly.Workspace, error) {
	return decode[dayfly.Workspace](w.c.rest.KeepAliveWorkspace(ctx, string(id), rest.KeepAlive{TimeoutS: timeout}))
}

// Token makes a token that opens this workspace alone, for at most
// dayfly.MaxTokenLife; 0: an hour.
func (w *Workspaces) Token(ctx context.Context, id dayfly.ID, life time.Duration) (dayfly.Token, error) {
	return decode[dayfly.Token](w.c.rest.CreateToken(ctx, string(id), rest.CreateToken{LifeS: positive(int(life.Seconds()))}))
}

// Log reads a log. With Follow set it goes on until the workspace is gone, ctx
// ends, or the log is closed.
func (w *Workspaces) Log(ctx context.Context, id dayfly.ID, q dayfly.LogQuery) (io.ReadCloser, error) {
	p := rest.GetLogsParams{Source: q.Source, Tail: q.Tail, Follow: q.Follow}
	resp, err := w.c.rest.GetLogs(ctx, string(id), &p)
	if err != nil {
		return nil, unreached(err)
	}
	if err := refusal(resp); err != nil {
		drain(resp)
		return nil, err
	}
	return resp.Body, nil
}

// Metrics returns what a workspace uses.
func (w *Workspaces) Metrics(ctx context.Context, id dayfly.ID) (dayfly.Metrics, error) {
	return decode[dayfly.Metrics](w.c.rest.GetMetrics(ctx, string(id), &rest.GetMetricsParams{}))
}

// WatchMetrics returns what a workspace uses, every so many seconds at least 1.
// An error ends it.
func (w *Workspaces) WatchMetrics(ctx context.Context, id dayfly.ID, every time.Duration) iter.Seq2[dayfly.Metrics, error] {
	seconds := max(1, int(every.Seconds()))
	return func(yield func(dayfly.Metrics, error) bool) {
		resp, err := w.c.rest.GetMetrics(ctx, string(id), &rest.GetMetricsParams{Interval: &seconds}, asEvents)
		for m, err := range streamOf[dayfly.Metrics](resp, err, "metrics") {
			if !yield(m, err) || err != nil {
				return
			}
		}
	}
}

// Processes returns what was started in a workspace through its API and still
// runs, by pid.
func (w *Workspaces) Processes(ctx context.Context, id dayfly.ID) ([]Running, error) {
	l, err := decode[rest.ProcessList](w.c.rest.ListProcesses(ctx, string(id)))
	var list []Running
	for _, p := range l.Processes {
		list = append(list, Running{PID: p.Pid, Command: p.Command, Dir: p.Cwd})
	}
	return list, err
}

// Running is a process that runs in a workspace.
type Running struct {
	PID     int
	Command []string
	Dir     string
}

// Signal signals a process of a workspace, and its group. The signal is a name,
// such as TERM, or a number.
func (w *Workspaces) Signal(ctx context.Context, id dayfly.ID, pid int, signal string) error {
	return done(w.c.rest.SignalProcess(ctx, string(id), pid, rest.SignalProcess{Signal: signal}))
}
