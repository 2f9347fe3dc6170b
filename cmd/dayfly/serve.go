package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/api"
	"github.com/dayfly/dayfly/flock"
)

const serveLong = `Run a server until SIGINT or SIGTERM.

Workspaces are processes of their own: they go on when the server ends, is killed
or replaced, and the next one over the same state directory takes them over. With
--ephemeral they end with it.

Whoever can connect to the unix socket is the host's own user. Other addresses
want an API key: the first start makes one for an admin, prints it once and
writes it to admin.key in the state directory. An address that other machines can
reach needs TLS.

With --config, FILE holds what the flags say, as YAML; flags win.`

func (a *app) serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a server",
		Long:  serveLong,
		Example: `  dayfly serve
  dayfly serve --listen 127.0.0.1:7070
  dayfly serve --config /etc/dayfly/config.yaml
  DAYFLY_HOST=unix:///var/lib/dayfly/dayfly.sock dayfly ls`,
		Args: noArgs,
	}
	f := cmd.Flags()
	config := f.String("config", "", "read `FILE`")
	listen := f.StringArray("listen", nil, "`ADDRESS`: unix:///path, host:port or https://host:port; may be given several times (default: dayfly.sock in the state directory)")
	cert := f.String("tls-cert", "", "certificate, a PEM `FILE`; read again when it changes")
	key := f.String("tls-key", "", "its key, a PEM `FILE`")
	insecure := f.Bool("insecure", false, "listen without TLS where other machines can reach it: keys can then be read on the way")
	database := f.String("database", "", "`URL`: sqlite:///path or postgres://… (default: dayfly.db in the state directory)")
	standby := f.Int("standby", 1, "hold `N` machines ready, which makes starts several times faster; 0: none, which saves their memory")
	ephemeral := f.Bool("ephemeral", false, "workspaces end with the server; those to be kept are stopped")
	vmm := f.String("vmm", "auto", "auto, qemu or firecracker: what new machines are made with")
	fc := f.String("firecracker", "", "Firecracker's program, a `FILE` (default: from the program path)")
	jail := f.String("jail", "on", "on, or off for measuring only: a guest that breaks out of its machine then has all of this host")
	logFormat := f.String("log-format", "text", "text or json")
	cmd.RunE = func(c *cobra.Command, _ []string) (err error) {
		var cfg serveConfig
		if *config != "" {
			if cfg, err = readConfig(*config); err != nil {
				return err
			}
		}
		given := c.Flags().Changed
		for name, set := range map[string]func(){
			"listen": func() { cfg.Listen = *listen }, "tls-cert": func() { cfg.TLS.Cert = *cert }, "tls-key": func() { cfg.TLS.Key = *key },
			"insecure": func() { cfg.Insecure = *insecure }, "database": func() { cfg.Database = *database },
			"standby": func() { cfg.Standby = standby }, "ephemeral": func() { cfg.Ephemeral = *ephemeral },
			"vmm": func() { cfg.VMM = *vmm }, "firecracker": func() { cfg.Firecracker = *fc }, "jail": func() { cfg.Jail = *jail },
			"log-format": func() { cfg.Log.Format = *logFormat }, "log-level": func() { cfg.Log.Level = a.logLevel },
		} {
			if given(name) {
				set()
			}
		}
		return a.serve(c.Context(), cfg)
	}
	return cmd
}

// maxStandby bounds the machines held ready: each has the memory of a small
// workspace.
const maxStandby = 64

// serve runs a server until a signal ends it.
func (a *app) serve(ctx context.Context, cfg serveConfig) (err error) {
	ctx, stop := interruptible(ctx)
	defer stop()
	dir, err := filepath.Abs(a.state)
	if err != nil {
		return err
	}
	if cfg, err = cfg.normal(dir); err != nil {
		return err
	}
	log, err := a.serverLogger(cfg)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return stateError(dir, err)
	}
	only, err := lockServer(ctx, dir)
	if err != nil {
		return err
	}
	defer only.Close()
	endpoints, err := cfg.listenAll(ctx) // callers wait from here on, rather than being refused
	if err != nil {
		return err
	}
	s, err := a.newService(ctx, cfg, dir, log)
	if err != nil {
		for _, e := range endpoints {
			_ = e.Close()
		}
		return err
	}
	return a.attend(ctx, s, endpoints)
}

// serverLogger is a log that is read later; a command's is in the way.
func (a *app) serverLogger(cfg serveConfig) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Log.Level)); err != nil {
		return nil, err
	}
	o := &slog.HandlerOptions{Level: level}
	if cfg.Log.Format == "json" {
		return slog.New(slog.NewJSONHandler(a.stderr, o)), nil
	}
	return slog.New(slog.NewTextHandler(a.stderr, o)), nil
}

// lockServer sees to it that a state directory has one server. The lock goes with
// the process.
func lockServer(ctx context.Context, dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "server.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, stateError(dir, err)
	}
	err = flock.Within(ctx, flock.Moment, func() error { return flock.Try(f, unix.LOCK_EX) })
	if err != nil {
		_ = f.Close()
	}
	if errors.Is(err, flock.ErrHeld) {
		return nil, dayfly.Errorf(dayfly.Conflict, "another server has the state directory %s: stop it first, or choose another with --state", dir)
	}
	if err != nil {
		return nil, stateError(dir, err)
	}
	return f, nil
}

// drainTimeout is how long requests under way may take when the server ends.
const drainTimeout = 30 * time.Second

// attend serves at all endpoints until ctx ends, or one of them fails.
func (a *app) attend(ctx context.Context, s *service, endpoints []endpoint) error {
	failed := make(chan error, len(endpoints))
	var servers []*http.Server
	for _, e := range endpoints {
		h := s.http(e)
		servers = append(servers, h)
		go func() { failed <- h.Serve(e) }()
		s.log.Info("listening", "address", e.address(), "version", dayfly.Version)
	}
	a.tellSupervisor(ctx, "READY=1")
	if p, ok := s.host.(preparer); ok {
		if err := p.prepare(ctx); err != nil {
			s.log.Warn("nothing is prepared: starts will be slower", "err", err)
		}
	}
	var err error
	select {
	case err = <-failed:
		err = fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
		s.log.Info("shutting down", "reason", context.Cause(ctx))
	}
	a.tellSupervisor(context.WithoutCancel(ctx), "STOPPING=1")
	return errors.Join(err, drain(s, servers), s.Close())
}

// drain takes no more requests, ends streams, and waits for what is under way.
func drain(s *service, servers []*http.Server) error {
	s.api.Drain()
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	errs := make([]error, len(servers))
	var wg sync.WaitGroup
	for i, h := range servers {
		wg.Go(func() {
			if h.Shutdown(ctx) != nil {
				errs[i] = h.Close() // what is under way is undone
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// http is the HTTP server of one endpoint.
func (s *service) http(e endpoint) *http.Server {
	mark := func(ctx context.Context) context.Context { return ctx }
	switch {
	case e.local:
		mark = api.TrustLocal
	case e.loopback:
		mark = api.OnLoopback
	}
	return &http.Server{
		Handler:           s.handler,
		BaseContext:       func(net.Listener) context.Context { return mark(context.Background()) },
		ReadHeaderTimeout: headerTimeout, // bodies and replies may be streams: the api bounds those that are not
		MaxHeaderBytes:    maxRequestHeader,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}
