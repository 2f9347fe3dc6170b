package api

import (
	"context"
	"io"
	"net"

	"github.com/dayfly/dayfly"
)

// Workspaces is what a host does with workspaces. Errors are *dayfly.Error
// where a caller may read them. Methods are called at the same time.
type Workspaces interface {
	// Create makes and starts a workspace; a cancelled ctx leaves nothing of it.
	Create(ctx context.Context, spec dayfly.Spec) (dayfly.Workspace, error)
	Start(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error)
	Stop(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error)
	Get(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error)
	List(ctx context.Context) ([]dayfly.Workspace, error)
	Delete(ctx context.Context, id dayfly.ID) error

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

// System says what is on the host's disk, and removes what can be made again.
type System interface {
	Usage(ctx context.Context) ([]dayfly.Usage, error)
	Prune(ctx context.Context) ([]dayfly.Usage, error)
}

// Guests opens streams to ports inside workspaces.
type Guests interface {
	Dial(ctx context.Context, id dayfly.ID, port uint16) (net.Conn, error)
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
