package main

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

// busy is the process in workspaces that are paused and copied. It has 50 MB in
// use, no page of it zero, and goes on.
const busy = `
import time
b = bytearray(range(256)) * (50 << 12)
print("ready", flush=True)
while True:
    b[0] = (b[0] + 1) % 256
    time.sleep(1)
`

// maxCopies is how often a workspace is paused or copied before another takes
// its place: each time its disk gets a layer, of which there may be 64, and which
// later samples should not pay for.
const maxCopies = 10

// workspace is a running or paused workspace with a busy process in it.
type workspace struct {
	server *server
	id     dayfly.ID
	pid    int // of the process
	copies int // that were made of it
}

// busyWorkspace makes one with so much memory. The server deletes it when it ends.
func (s *server) busyWorkspace(ctx context.Context, memoryMiB int) (*workspace, error) {
	ws, err := s.Workspaces.Create(ctx, dayfly.Spec{Image: s.bed.image, MemoryMiB: memoryMiB, DiskMiB: usualDisk, Accel: dayfly.Accel(s.bed.accel)})
	if err != nil {
		return nil, err
	}
	carried, leave := context.WithCancel(ctx) // then it runs on by itself
	defer leave()
	out := &output{first: make(chan struct{})}
	p, err := s.Start(carried, ws.ID, client.Command{Path: "python3", Args: []string{"-c", busy}, Stdout: out, Stderr: out})
	if err != nil {
		return nil, err
	}
	select {
	case <-out.first:
	case <-p.Done():
	}
	if said := out.text(); said != "ready\n" {
		return nil, fmt.Errorf("the workspace's process said %q", said)
	}
	return &workspace{server: s, id: ws.ID, pid: p.PID}, nil
}

// goesOn sees that the process still runs in the workspace, or in a copy.
func (w *workspace) goesOn(ctx context.Context, id dayfly.ID) error {
	p, err := w.server.Start(ctx, id, client.Command{Path: "sh", Args: []string{"-c", `kill -0 "$1"`, "sh", strconv.Itoa(w.pid)}})
	if err != nil {
		return err
	}
	if exit, err := p.Wait(); err != nil || exit.Code != 0 {
		return fmt.Errorf("the process in %s is gone: %d, %w", id, exit.Code, err)
	}
	return nil
}

// echo runs echo in a workspace and returns when its first output arrived.
func (s *server) echo(ctx context.Context, id dayfly.ID) (time.Time, error) {
	out := &output{first: make(chan struct{})}
	p, err := s.Start(ctx, id, client.Command{Path: "echo", Args: []string{"hello"}, Stdout: out})
	if err != nil {
		return time.Time{}, err
	}
	exit, err := p.Wait()
	if err == nil && (exit.Code != 0 || out.text() != "hello\n") {
		err = fmt.Errorf("echo in %s: exit code %d, printed %q", id, exit.Code, out.text())
	}
	return out.at, err
}

// each does something with all workspaces at once and returns the first error
// there is.
func each(list []dayfly.Workspace, do func(int, dayfly.ID) error) error {
	errs := make(chan error, len(list))
	for i, ws := range list {
		go func() { errs <- do(i, ws.ID) }()
	}
	var first error
	for range list {
		if err := <-errs; first == nil {
			first = err
		}
	}
	return first
}

// deleteAll deletes workspaces at once.
func (s *server) deleteAll(ctx context.Context, list []dayfly.Workspace) error {
	return each(list, func(_ int, id dayfly.ID) error { return s.Workspaces.Delete(ctx, id) })
}

// output keeps what a command prints, and when that began.
type output struct {
	first chan struct{} // closed when it has
	at    time.Time     // set before that

	mu  sync.Mutex
	all bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.all.Len() == 0 && len(b) > 0 {
		o.at = time.Now()
		close(o.first)
	}
	return o.all.Write(b)
}

func (o *output) text() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all.String()
}
