package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"

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
	l, err := serveConfig{}.listenAt(ctx, address)
	if err != nil {
		return errors.Join(err, back.Close())
	}
	s := newServer(back, log, !l.local)
	log.Info("listening", "address", l.address(), "version", dayfly.Version)
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
