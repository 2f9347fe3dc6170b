// Package blackout is a file system in memory whose power can be cut: what was
// synced survives, and of the rest as much as a test says.
//
// A test mounts one, lets the code at hand work in it, cuts the power in the
// midst, and looks at what is left:
//
//	Mount ──► Load ──► Arm: op n fails, or all from n on ──► the code ──► Remains
//
// It counts what changes it, each write, sync, truncation and change of a name, as
// one op. The contract is the strictest that a program may meet: fsync of a file
// keeps what is in it and not its name; fsync of a directory keeps its names and
// nothing of what is in the files; a rename within a directory is kept whole or not
// at all, and one from directory to directory is two changes. What was not
// synced survives by directory and by file: see Aftermath.
//
// File systems live in a process of their own, as a process that waits for itself
// in the kernel cannot even be killed. It is the test's program, started again: its
// TestMain calls Enter. It ends with the test, and takes the file systems with it.
// It needs root.
package blackout

import (
	"context"
	"errors"
	"io"
	"net/rpc"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// Host is a process with file systems.
type Host struct{ client *rpc.Client }

// FS is a file system that is mounted until its test has ended. Its methods may be
// called at the same time.
type FS struct {
	t    testing.TB
	host *Host
	dir  string // where it is mounted: its name
}

// Plan is what is to go wrong. Ops are counted from 1.
type Plan struct {
	At    int           // the op that goes wrong; 0: none
	Err   syscall.Errno // what it fails with; ENOSPC: the next does that takes space
	Going bool          // all ops behind fail as well: the power is off, the disk is full
}

// processName is what the process is called by.
const processName = "dayfly-blackout"

// Enter is the process's main function. In any other it does nothing.
func Enter() {
	if len(os.Args) != 1 || os.Args[0] != processName {
		return
	}
	s := &server{mounts: map[string]*tree{}}
	serving := rpc.NewServer()
	if err := serving.RegisterName("FS", s); err != nil {
		panic(err)
	}
	serving.ServeConn(pipes{os.Stdin, os.Stdout}) // until the test's process closes them, or ends
	s.unmountAll()
	os.Exit(0)
}

// Start starts a process for the file systems of a test.
func Start(t testing.TB) *Host {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(context.Background(), self) // it ends with its input
	cmd.Args, cmd.Stderr = []string{processName}, os.Stderr
	in, errIn := cmd.StdinPipe()
	out, errOut := cmd.StdoutPipe()
	if err := errors.Join(errIn, errOut, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	h := &Host{rpc.NewClient(pipes{out, in})}
	t.Cleanup(func() {
		if err := errors.Join(h.client.Close(), cmd.Wait()); err != nil {
			t.Errorf("blackout: %v", err)
		}
	})
	return h
}

// pipes are two of them as one connection.
type pipes struct {
	io.ReadCloser
	w io.WriteCloser
}

func (p pipes) Write(b []byte) (int, error) { return p.w.Write(b) }

// Close ends the other end's input. Its own is closed by the end of the process.
func (p pipes) Close() error { return p.w.Close() }

// Mount mounts an empty file system at dir.
func (h *Host) Mount(t testing.TB, dir string) *FS {
	t.Helper()
	f := &FS{t, h, dir}
	f.call("Mount", dir, nil)
	t.Cleanup(func() { f.call("Unmount", dir, nil) })
	return f
}

// call asks the process for something. Whatever is wrong ends the test.
func (f *FS) call(method string, in, out any) {
	f.t.Helper()
	if out == nil {
		out = new(struct{ Nothing bool })
	}
	if err := f.host.client.Call("FS."+method, in, out); err != nil {
		f.t.Fatalf("blackout: %s: %v", method, err)
	}
}

// Load copies what is below a directory into the root. It is as durable as if it
// had always been there. Links to one file stay links to one file.
func (f *FS) Load(from string) { f.t.Helper(); f.call("Load", Copying{FS: f.dir, Dir: from}, nil) }

// Settle makes all that is there durable, as some time without a power cut does.
func (f *FS) Settle() { f.t.Helper(); f.call("Settle", f.dir, nil) }

// Arm sets what goes wrong from now on, and counts ops anew.
func (f *FS) Arm(p Plan) { f.t.Helper(); f.call("Arm", Arming{FS: f.dir, Plan: p}, nil) }

// Count is how many ops there were since Arm, and whether what that planned has
// happened.
func (f *FS) Count() (ops int, hit bool) {
	f.t.Helper()
	var c Count
	f.call("Count", f.dir, &c)
	return c.Ops, c.Hit
}

// Remains makes of dir, which is there and empty, what a power cut would leave
// now.
func (f *FS) Remains(dir string, a Aftermath) {
	f.t.Helper()
	f.call("Remains", Copying{FS: f.dir, Dir: dir, Aftermath: a}, nil)
}
