package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/dayfly/dayfly/client"
	"github.com/dayfly/dayfly/undo"
)

// server is a dayfly serve over the bed, with a client of it. What it is doing
// is read from its log.
type server struct {
	*client.Client
	bed  bed
	host string // for --host

	cmd     *exec.Cmd
	listens chan struct{} // closed when it does
	ready   chan struct{} // has one for every standby machine that became ready
	ended   chan struct{} // closed with the log

	mu   sync.Mutex
	tail []string // of the log
}

// What the server's log says of interest.
const (
	saysListening = "msg=listening"
	saysReady     = `msg="standby machine ready"`
)

// Bounds on a server's log and on waiting for it.
const (
	tailLines   = 20
	maxReady    = 1 << 10
	fillTimeout = time.Minute
)

// newServer starts a server and returns once it answers.
func newServer(ctx context.Context, b bed, standby int, back *undo.Stack) (*server, error) {
	s := &server{
		bed: b, host: "unix://" + filepath.Join(b.dir, "dayfly.sock"),
		listens: make(chan struct{}), ready: make(chan struct{}, maxReady), ended: make(chan struct{}),
	}
	// It ends after ctx, by its undo: what it runs is to be deleted first.
	s.cmd = b.command(context.WithoutCancel(ctx), "serve", "--ephemeral", "--log-level", "debug", "--standby", strconv.Itoa(standby))
	s.cmd.Args = append(s.cmd.Args, b.serve...)
	logs, err := s.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	back.Push("server", s.stop)
	go s.read(logs)
	select {
	case <-s.listens:
	case <-s.ended:
		return nil, fmt.Errorf("the server ended:\n%s", s.log())
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if s.Client, err = client.New(client.Options{Address: s.host}); err != nil {
		return nil, err
	}
	back.Push("client", func(context.Context) error { return s.Client.Close() })
	_, err = s.Workspaces.List(ctx)
	return s, err
}

func (s *server) read(logs io.Reader) {
	defer close(s.ended)
	var listens sync.Once
	for in := bufio.NewScanner(logs); in.Scan(); {
		line := in.Text()
		s.mu.Lock()
		s.tail = append(s.tail[max(0, len(s.tail)-tailLines+1):], line)
		s.mu.Unlock()
		switch {
		case strings.Contains(line, saysListening):
			listens.Do(func() { close(s.listens) })
		case strings.Contains(line, saysReady):
			select {
			case s.ready <- struct{}{}:
			default: // nobody counts them
			}
		}
	}
}

func (s *server) log() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.tail, "\n")
}

// mark forgets the standby machines that have become ready so far.
func (s *server) mark() {
	for {
		select {
		case <-s.ready:
		default:
			return
		}
	}
}

// filled waits until so many standby machines have become ready since the mark.
func (s *server) filled(ctx context.Context, machines int) error {
	ctx, cancel := context.WithTimeout(ctx, fillTimeout)
	defer cancel()
	for range machines {
		select {
		case <-s.ready:
		case <-s.ended:
			return fmt.Errorf("the server ended:\n%s", s.log())
		case <-ctx.Done():
			return fmt.Errorf("no standby machine became ready: %w:\n%s", ctx.Err(), s.log())
		}
	}
	return nil
}

// stop ends the server, which deletes what it runs; or kills it, and its VMMs
// with it, if it does not end in time.
func (s *server) stop(ctx context.Context) error {
	err := s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.ended:
	case <-ctx.Done():
		err = errors.Join(fmt.Errorf("the server did not end: %w:\n%s", ctx.Err(), s.log()), s.cmd.Process.Kill())
		<-s.ended
	}
	return errors.Join(err, s.cmd.Wait())
}
