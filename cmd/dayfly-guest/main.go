// Command dayfly-guest is the agent of a workspace. As pid 1 it is the init of
// the machine; as a plain process (--listen) it serves the same in-guest API on
// a TCP or unix socket, for tests and for use without a machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest/agent"
	"github.com/dayfly/dayfly/guest/boot"
)

func main() {
	if os.Getpid() == 1 {
		initMachine()
	}
	if err := run(os.Args[1:]); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "dayfly-guest:", err)
		}
		os.Exit(2)
	}
}

// initMachine is the life of pid 1. It does not return: where it cannot go on it
// says why on the console and ends, and with it the machine.
func initMachine() {
	reaper := agent.NewReaper()
	sys, err := boot.Prepare(dayfly.Version, func(fork func() (int, error)) (func() syscall.WaitStatus, error) {
		child, err := reaper.Start(fork)
		if err != nil {
			return nil, err
		}
		return func() syscall.WaitStatus { return child.Exit().Status }, nil
	})
	if err != nil {
		boot.Die(err)
	}
	a := agent.New(agent.Config{
		Version:    dayfly.Version,
		Reaper:     reaper,
		PreStart:   sys.PreStart,
		OnInit:     sys.Init,
		OnPoweroff: sys.Poweroff,
		Copier:     sys,
	})
	boot.Die(sys.Serve(context.Background(), a.Handler()))
}

// run serves the in-guest API until SIGINT or SIGTERM.
func run(args []string) error {
	flags := flag.NewFlagSet("dayfly-guest", flag.ContinueOnError)
	listen := flags.String("listen", "", "serve on `address`: host:port, or the path of a unix socket")
	verbose := flags.Bool("v", false, "log more")
	version := flags.Bool("version", false, "print the version")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *version {
		fmt.Println("dayfly-guest", dayfly.Version)
		return nil
	}
	if *listen == "" {
		return errors.New("not pid 1, so there is no machine to start: give --listen 127.0.0.1:49983 to serve the in-guest API as a plain process")
	}
	level := slog.LevelInfo
	if *verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return serve(ctx, log, *listen)
}

// serve runs an agent on a listener of its own until ctx ends.
func serve(ctx context.Context, log *slog.Logger, address string) error {
	network := "tcp"
	if strings.Contains(address, "/") {
		network = "unix"
	}
	l, err := new(net.ListenConfig).Listen(ctx, network, address)
	if err != nil {
		return err
	}
	a := agent.New(agent.Config{Log: log, Version: dayfly.Version})
	server := &http.Server{
		Handler:           a.Handler(),
		ReadHeaderTimeout: 30 * time.Second, // whoever connects says something; bodies and answers take as long as they take
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	stopped := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stopped()
	log.Info("listening", "address", l.Addr().String(), "version", dayfly.Version)
	err = server.Serve(l)
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	return errors.Join(err, a.Close())
}
