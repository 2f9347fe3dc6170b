package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
)

func (a *app) serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a server",
		Long: `Run a server until SIGINT or SIGTERM. Its workspaces end with it; those to be
kept are stopped. There are no keys yet, so it listens only where other machines
cannot reach it: on a unix socket, or a loopback address.`,
		Example: `  dayfly serve
  dayfly serve --listen 127.0.0.1:7070
  DAYFLY_HOST=unix:///var/lib/dayfly/dayfly.sock dayfly ls`,
		Args: noArgs,
	}
	listen := cmd.Flags().String("listen", "", "`ADDRESS`: unix:///path or 127.0.0.1:port (default: dayfly.sock in the state directory)")
	standby := cmd.Flags().Int("standby", 1, "hold `N` machines ready, which makes starts several times faster; 0: none, which saves their memory")
	cmd.RunE = func(c *cobra.Command, _ []string) error {
		if *standby < 0 || *standby > maxStandby {
			return wrongUsage(c, fmt.Errorf("--standby %d: hold 0 to %d machines ready", *standby, maxStandby))
		}
		return a.serve(c.Context(), *listen, *standby)
	}
	return cmd
}

// maxStandby bounds the machines held ready: each has the memory of a small
// workspace.
const maxStandby = 64

// preparer is a backend that can do work ahead of time.
type preparer interface {
	prepare(ctx context.Context, standby int) error
}

func (a *app) serve(ctx context.Context, address string, standby int) error {
	ctx, stop := interruptible(ctx)
	defer stop()
	if a.logLevel == "warn" {
		a.logLevel = "info" // a server's log is read later; a command's is in the way
	}
	log, err := a.logger()
	if err != nil {
		return err
	}
	dir, err := filepath.Abs(a.state)
	if err != nil {
		return err
	}
	back, err := a.newBackend(dir, log)
	if err != nil {
		return err
	}
	if address == "" {
		address = "unix://" + filepath.Join(dir, "dayfly.sock")
	}
	l, err := listenAt(ctx, address)
	if err != nil {
		return errors.Join(err, back.Close())
	}
	s := newServer(back, log, l.Addr().Network() == "tcp")
	log.Info("listening", "address", hostFlag(l.Addr()), "version", dayfly.Version)
	served := make(chan error, 1)
	go func() { served <- s.http.Serve(l) }()
	if p, ok := back.(preparer); ok {
		if err := p.prepare(ctx, standby); err != nil {
			log.Warn("nothing is prepared: starts will be slower", "err", err)
		}
	}
	select {
	case err = <-served:
	case <-ctx.Done():
		log.Info("shutting down", "reason", context.Cause(ctx))
	}
	err = errors.Join(ignoreClosed(err), s.Close())
	return err
}

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// hostFlag returns what --host would be for an address.
func hostFlag(addr net.Addr) string {
	if addr.Network() == "unix" {
		return "unix://" + addr.String()
	}
	return "http://" + addr.String()
}

// listenAt listens on a unix socket that only its owner can connect to, or on
// a loopback address.
func listenAt(ctx context.Context, address string) (net.Listener, error) {
	var lc net.ListenConfig
	if path, ok := strings.CutPrefix(address, "unix://"); ok {
		return listenUnix(ctx, path)
	}
	address = strings.TrimPrefix(address, "http://")
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, dayfly.Errorf(dayfly.Invalid, "listen %q: use unix:///path or 127.0.0.1:port", address)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, dayfly.Errorf(dayfly.Denied, "listen %q: other machines could reach it and there are no keys yet: use a loopback address, such as 127.0.0.1, or a unix socket", address)
	}
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, dayfly.Errorf(dayfly.Unavailable, "%w", err)
	}
	return l, nil
}

func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	if !filepath.IsAbs(path) {
		return nil, dayfly.Errorf(dayfly.Invalid, "listen unix://%s: the path must begin with /", path)
	}
	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}
	// Made under a name only we know, in the same directory, and moved into
	// place once nobody else may connect.
	hidden := fmt.Sprintf("%s.%d", path, os.Getpid())
	_ = os.Remove(hidden)
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", hidden)
	if err != nil {
		return nil, dayfly.Errorf(dayfly.Unavailable, "%w", err)
	}
	err = os.Chmod(hidden, 0o600)
	if err == nil {
		err = os.Rename(hidden, path)
	}
	if err != nil {
		_ = l.Close()
		return nil, dayfly.Errorf(dayfly.Unavailable, "listen: %w", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	return &movedListener{l, path}, nil
}

// movedListener is a unix listener whose socket was renamed.
type movedListener struct {
	net.Listener
	path string
}

func (l *movedListener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

func (l *movedListener) Close() error {
	_ = os.Remove(l.path)
	return l.Listener.Close()
}

// removeStale removes the socket of a server that died, and nothing else.
func removeStale(ctx context.Context, path string) error {
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return dayfly.Errorf(dayfly.Unavailable, "listen: %w", err)
	case st.Mode().Type() != fs.ModeSocket:
		return dayfly.Errorf(dayfly.Conflict, "listen: %s is there already and is not a socket", path)
	}
	var d net.Dialer
	if c, err := d.DialContext(ctx, "unix", path); err == nil {
		_ = c.Close()
		return dayfly.Errorf(dayfly.Conflict, "listen: a server answers at %s already", path)
	}
	return os.Remove(path)
}
