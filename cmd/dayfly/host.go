package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/api"
	"github.com/dayfly/dayfly/control"
	"github.com/dayfly/dayfly/image"
	"github.com/dayfly/dayfly/kernel"
	"github.com/dayfly/dayfly/keyring"
	"github.com/dayfly/dayfly/node"
)

// host is this machine over one state directory. Each part is opened when it
// is first asked for: starting a workspace does not wait for what it does not use.
type host struct {
	dir string
	log *slog.Logger

	images  func() (*image.Store, error)
	kernels func() (*kernel.Store, error)
	node    func() (*node.Node, error)

	// Of a server; set before the node is opened.
	vmm  string // auto, qemu or firecracker; empty: auto
	jail string // jailOn or jailOff

	firecracker string // the program's path; empty: by the program path
	io          node.IO
	standby     int  // machines held ready
	outlive     bool // machines outlive this process
	mergeAbove  int  // layers a disk may have before they are merged
	changed     func(dayfly.Workspace)

	mu     sync.Mutex
	opened *node.Node // if it was
}

// newHost makes the backend of this machine. Nothing is opened yet.
func newHost(dir string, log *slog.Logger) (backend, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, stateError(dir, err)
	}
	h := &host{dir: dir, log: log}
	h.images = sync.OnceValues(func() (*image.Store, error) {
		return image.Open(filepath.Join(dir, "images"), image.Options{Log: log})
	})
	h.kernels = sync.OnceValues(func() (*kernel.Store, error) {
		return kernel.OpenAgent(filepath.Join(dir, "kernels"), kernel.Agent{ID: guestID(), Read: readGuest})
	})
	h.node = sync.OnceValues(h.openNode)
	return h, nil
}

func stateError(dir string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return &dayfly.Error{Kind: dayfly.Denied, Err: err,
			Msg: "the state directory " + dir + " is not writable: run as root, or choose another with --state"}
	}
	return dayfly.Errorf(dayfly.Unavailable, "the state directory: %w", err)
}

func (h *host) openNode() (*node.Node, error) {
	images, err := h.images()
	if err != nil {
		return nil, err
	}
	kernels, err := h.kernels()
	if err != nil {
		return nil, err
	}
	keys, err := keyring.Open(h.dir)
	if err != nil {
		return nil, err
	}
	made, err := h.drivers(context.Background())
	if err != nil {
		return nil, err
	}
	n, err := node.Open(context.Background(), node.Config{
		Dir: h.dir, Images: images, Kernels: kernels, Keys: keys, Log: h.log,
		Driver: made.first, Others: made.others, Fallback: made.fallback, KillOrphans: killOrphans, Orphans: orphans,
		Standby: node.Standby{Count: h.standby}, Outlive: h.outlive, Changed: h.changed,
		Jail: h.jails(), IO: h.io, MergeAbove: h.mergeAbove,
	})
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.opened = n
	return n, nil
}

// place opens the node of a server.
func (h *host) place(cfg serveConfig, changed func(dayfly.Workspace)) (control.Node, error) {
	h.vmm, h.standby, h.outlive, h.changed = cfg.VMM, *cfg.Standby, !cfg.Ephemeral, changed
	h.firecracker = cfg.Firecracker
	h.mergeAbove = cfg.MergeAbove
	h.jail, h.io = cfg.Jail, node.IO{Read: cfg.IO.Read, Write: cfg.IO.Write}
	return h.starter()
}

// use says what a workspace takes of this host.
func (h *host) use(ctx context.Context, id dayfly.ID) (control.Use, error) {
	n, err := h.node()
	if err != nil {
		return control.Use{}, err
	}
	u, err := n.HostUse(ctx, id)
	return control.Use(u), err
}

// prepare does ahead of time what starts would wait for.
func (h *host) prepare(ctx context.Context) error {
	n, err := h.starter()
	if err != nil {
		return err
	}
	return n.Prepare(ctx)
}

// starter is the node for starts, which need the guest agent.
func (h *host) starter() (*node.Node, error) {
	if !hasGuest() {
		return nil, errNoGuest
	}
	return h.node()
}

func (h *host) options() api.Options {
	return api.Options{
		Workspaces: hostWorkspaces{h}, Snapshots: hostWorkspaces{h}, Guests: hostWorkspaces{h}, Images: hostImages{h},
		Kernels: hostKernels{h}, Host: hostWorkspaces{h}, System: hostWorkspaces{h},
	}
}

// Close ends every workspace of this process but those to be kept, which stop.
func (h *host) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.opened == nil {
		return nil
	}
	return h.opened.Close()
}

// hostWorkspaces is the node, opened when first used.
type hostWorkspaces struct{ h *host }

func (w hostWorkspaces) Create(ctx context.Context, spec dayfly.Spec, o dayfly.CreateOptions) (dayfly.Workspace, error) {
	if err := withoutServer(spec, o); err != nil {
		return dayfly.Workspace{}, err
	}
	n, err := w.h.starter()
	if err != nil {
		return dayfly.Workspace{}, err
	}
	return n.Create(ctx, spec)
}

func (w hostWorkspaces) Start(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	n, err := w.h.starter()
	if err != nil {
		return dayfly.Workspace{}, err
	}
	return n.Start(ctx, id)
}

func (w hostWorkspaces) Stop(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	n, err := w.h.node()
	if err != nil {
		return dayfly.Workspace{}, err
	}
	return n.Stop(ctx, id)
}

func (w hostWorkspaces) Get(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	n, err := w.h.node()
	if err != nil {
		return dayfly.Workspace{}, err
	}
	return n.Get(ctx, id)
}

func (w hostWorkspaces) Delete(ctx context.Context, id dayfly.ID) error {
	n, err := w.h.node()
	if err != nil {
		return err
	}
	return n.Delete(ctx, id)
}

func (w hostWorkspaces) Dial(ctx context.Context, id dayfly.ID, port uint16) (net.Conn, error) {
	n, err := w.h.node()
	if err != nil {
		return nil, err
	}
	return n.Dial(ctx, id, port)
}

func (w hostWorkspaces) Checks(ctx context.Context) []dayfly.Check {
	n, err := w.h.node()
	if err != nil {
		return []dayfly.Check{{Name: "state", Status: dayfly.Broken, Detail: describe(err)}}
	}
	return n.Checks(ctx)
}

// hostImages is the image store, opened when first used.
type hostImages struct{ h *host }

func (i hostImages) List(ctx context.Context) ([]dayfly.Image, error) {
	s, err := i.h.images()
	if err != nil {
		return nil, err
	}
	return s.List(ctx)
}

func (i hostImages) Get(ctx context.Context, name string) (dayfly.Image, error) {
	s, err := i.h.images()
	if err != nil {
		return dayfly.Image{}, err
	}
	return s.Lookup(ctx, name)
}

// swept is the store for work that changes it: what killed work left goes first.
func (i hostImages) swept(ctx context.Context) (*image.Store, error) {
	s, err := i.h.images()
	if err != nil {
		return nil, err
	}
	if err := s.Sweep(ctx); err != nil {
		i.h.log.Warn("sweep of images", "err", err)
	}
	return s, nil
}

func (i hostImages) Remove(ctx context.Context, name string) error {
	s, err := i.swept(ctx)
	if err != nil {
		return err
	}
	_, err = s.Remove(ctx, name)
	return err
}

func (i hostImages) Pull(ctx context.Context, p api.PullImage, report api.Report) (dayfly.Image, error) {
	s, err := i.swept(ctx)
	if err != nil {
		return dayfly.Image{}, err
	}
	return s.Pull(ctx, p.Reference, image.PullOptions{Platform: p.Platform, Progress: report})
}

func (i hostImages) Import(ctx context.Context, p api.ImportImageParams, archive io.Reader, report api.Report) ([]dayfly.Image, error) {
	s, err := i.swept(ctx)
	if err != nil {
		return nil, err
	}
	return s.Import(ctx, archive, image.ImportOptions{Name: p.Name, Platform: p.Platform, Progress: report})
}

func (i hostImages) Build(ctx context.Context, b api.BuildImage, report api.Report) (dayfly.Image, error) {
	base := image.BaseRecipe()
	if b.Recipe != base.Name {
		return dayfly.Image{}, dayfly.Errorf(dayfly.NotFound, "no recipe %q: there is %s", b.Recipe, base.Name)
	}
	s, err := i.swept(ctx)
	if err != nil {
		return dayfly.Image{}, err
	}
	return s.Build(ctx, base, image.BuildOptions{Progress: report})
}

// hostKernels is the kernel store, opened when first used.
type hostKernels struct{ h *host }

func (k hostKernels) List(ctx context.Context) ([]dayfly.Kernel, error) {
	s, err := k.h.kernels()
	if err != nil {
		return nil, err
	}
	return s.List(ctx)
}

// Import keeps the package in a file until it is unpacked, as the store reads
// it more than once. The file has no name: a killed process leaves none.
func (k hostKernels) Import(ctx context.Context, deb io.Reader, report api.Report) (dayfly.Kernel, error) {
	s, err := k.h.kernels()
	if err != nil {
		return dayfly.Kernel{}, err
	}
	f, err := os.CreateTemp(k.h.dir, ".kernel-*.deb")
	if err != nil {
		return dayfly.Kernel{}, stateError(k.h.dir, err)
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return dayfly.Kernel{}, stateError(k.h.dir, err)
	}
	if _, err := io.Copy(f, deb); err != nil {
		return dayfly.Kernel{}, err
	}
	return s.Import(ctx, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), report)
}

func (k hostKernels) Build(ctx context.Context, report api.Report) (dayfly.Kernel, error) {
	s, err := k.h.kernels()
	if err != nil {
		return dayfly.Kernel{}, err
	}
	return s.Build(ctx, kernel.BuildOptions{Progress: report})
}
