package main

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/api"
	"github.com/dayfly/dayfly/control"
	"github.com/dayfly/dayfly/store"
)

// service is a server that stays: a host, what it remembers and what decides.
type service struct {
	log     *slog.Logger
	api     *api.Server
	handler http.Handler
	host    backend
	closers []func() error // the last opened last
}

// placer is a backend with a node that control can place workspaces at.
type placer interface {
	// place opens the node, which takes over what runs; changed is told of what
	// happens from then on.
	place(cfg serveConfig, changed func(dayfly.Workspace)) (control.Node, error)
	use(ctx context.Context, id dayfly.ID) (control.Use, error)
}

// preparer is a backend that can do work ahead of time.
type preparer interface {
	prepare(ctx context.Context) error
}

// newService puts a server together. Its parts are opened in the order in which
// they depend on each other, and closed the other way round.
func (a *app) newService(ctx context.Context, cfg serveConfig, dir string, log *slog.Logger) (_ *service, err error) {
	s := &service{log: log}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	tracer, flush, err := newTracer(ctx)
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, func() error { return flush(context.WithoutCancel(ctx)) })
	if s.host, err = a.newBackend(dir, log); err != nil {
		return nil, err
	}
	s.closers = append(s.closers, s.host.Close)
	o := s.host.options()
	o.Log, o.OpenMetrics = log, cfg.Metrics.Open
	if p, ok := s.host.(placer); ok {
		if err := s.govern(ctx, p, governing{cfg: cfg, dir: dir, options: &o}); err != nil {
			return nil, err
		}
	}
	o.Workspaces = tracedStarts{o.Workspaces, tracer}
	s.api = api.New(o)
	s.closers = append(s.closers, s.api.Close)
	s.handler = traced(tracer, s.api)
	return s, nil
}

// Close ends what must not outlive the server, the last opened first.
func (s *service) Close() error {
	var errs []error
	for _, end := range slices.Backward(s.closers) {
		errs = append(errs, end())
	}
	s.closers = nil
	return errors.Join(errs...)
}

// governing is what govern works on.
type governing struct {
	cfg     serveConfig
	dir     string
	options *api.Options
}

// govern puts control between the api and the host's node.
func (s *service) govern(ctx context.Context, p placer, g governing) error {
	st, err := store.Open(ctx, store.Options{URL: g.cfg.Database, Log: s.log})
	if err != nil {
		return err
	}
	s.closers = append(s.closers, st.Close)
	if err := s.firstKey(ctx, g.dir, st); err != nil {
		return err
	}
	token, err := secretFile(filepath.Join(g.dir, "token.key"))
	if err != nil {
		return err
	}
	var ctl atomic.Pointer[control.Control]
	node, err := p.place(g.cfg, func(ws dayfly.Workspace) {
		if c := ctl.Load(); c != nil { // else it is asked for when it opens
			c.Changed(ws)
		}
	})
	if err != nil {
		return err
	}
	m := newMeter()
	c, err := control.Open(ctx, control.Options{
		Node: node, Store: st, Log: s.log, LogDir: filepath.Join(g.dir, "logs"), TokenKey: token,
		Starts: g.cfg.Starts.AtOnce, Queue: g.cfg.Starts.Queue, PrivateWebhooks: g.cfg.Webhooks.Private,
		HostUse: p.use, Observe: m.stage,
	})
	if err != nil {
		return err
	}
	ctl.Store(c)
	s.closers = append(s.closers, c.Close)
	m.watch(c)
	awaitSettled(ctx, c)
	o := g.options
	o.Workspaces, o.Snapshots, o.Guests, o.Logs, o.Meter = c, c, c, c, c
	o.Events, o.Webhooks, o.Auth, o.Keys, o.Namespaces, o.Audit, o.Health = c, c, c, c, c, c, c
	o.Metrics, o.Observe = m, m.request
	return nil
}

// settleTimeout is how long callers wait, at most, rather than being told to come
// back.
const settleTimeout = 5 * time.Second

// awaitSettled waits until what an earlier server left is settled, but not for long.
func awaitSettled(ctx context.Context, c *control.Control) {
	late := time.NewTimer(settleTimeout)
	defer late.Stop()
	select {
	case <-c.Settled():
	case <-late.C:
	case <-ctx.Done():
	}
}

// firstKey makes an admin's key where there is none, so that a new server can be
// reached from elsewhere. The file comes first: a key that nobody has read would
// never be made again.
func (s *service) firstKey(ctx context.Context, dir string, st *store.Store) error {
	has, err := st.HasAdminKey(ctx)
	if err != nil || has {
		return err
	}
	r, secret := control.NewKey("first admin", "", time.Now())
	path := filepath.Join(dir, "admin.key")
	if err := writeSecret(path, []byte(secret+"\n")); err != nil {
		return err
	}
	if err := st.CreateKey(ctx, r, store.Once{}); err != nil {
		return err
	}
	s.log.Warn("the first admin's API key, said only once", "key", secret, "also_in", path)
	return nil
}

// secretBytes is the length of a key that signs.
const secretBytes = 32

// secretFile reads a key, which is made if it is not there.
func secretFile(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		b = make([]byte, secretBytes)
		_, _ = rand.Read(b) // never fails: crypto/rand ends the process instead
		return b, writeSecret(path, b)
	}
	if err != nil {
		return nil, dayfly.Errorf(dayfly.Unavailable, "the key of workspace tokens: %w", err)
	}
	if len(b) != secretBytes {
		return nil, dayfly.Errorf(dayfly.Unavailable, "the key of workspace tokens: %s has %d bytes, not %d: remove it, which ends all tokens", path, len(b), secretBytes)
	}
	return b, nil
}

// writeSecret replaces a file, durably, that only we can read.
func writeSecret(path string, b []byte) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return dayfly.Errorf(dayfly.Unavailable, "secret: %w", err)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return dayfly.Errorf(dayfly.Unavailable, "secret: %w", errors.Join(err, os.Remove(tmp)))
	}
	return nil
}
