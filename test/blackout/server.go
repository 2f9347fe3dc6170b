package blackout

import (
	"fmt"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// server is what the process answers to: methods as net/rpc wants them.
type server struct {
	mu     sync.Mutex
	mounts map[string]*tree
}

// What is said to the process, and what it says: net/rpc wants the types public.
type (
	// Copying is the content of a file system on its way from or to a directory.
	Copying struct {
		FS, Dir   string
		Aftermath Aftermath
	}
	// Arming is a plan for a file system.
	Arming struct {
		FS   string
		Plan Plan
	}
	// Count is what Arm began to count.
	Count struct {
		Ops int
		Hit bool
	}

	nothing = struct{ Nothing bool }
)

func (s *server) Mount(dir string, _ *nothing) error {
	t := newTree()
	f, err := fuse.NewServer(t, dir, &fuse.MountOptions{
		FsName: "blackout", Name: "blackout", DirectMountStrict: true, DisableXAttrs: true, DisableReadDirPlus: true, MaxWrite: 1 << 20,
	})
	if err != nil {
		return err
	}
	go f.Serve()
	s.mu.Lock()
	s.mounts[dir] = t
	s.mu.Unlock()
	return f.WaitMount()
}

// Unmount takes the file system off its directory. Who has something open in it
// keeps that.
func (s *server) Unmount(dir string, _ *nothing) error {
	s.mu.Lock()
	delete(s.mounts, dir)
	s.mu.Unlock()
	return syscall.Unmount(dir, syscall.MNT_DETACH)
}

func (s *server) unmountAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for dir := range s.mounts {
		_ = syscall.Unmount(dir, syscall.MNT_DETACH) // the test has ended without it
	}
}

// at does something with a file system.
func (s *server) at(dir string, do func(*tree) error) error {
	s.mu.Lock()
	t := s.mounts[dir]
	s.mu.Unlock()
	if t == nil {
		return fmt.Errorf("nothing is mounted at %s", dir)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return do(t)
}

func (s *server) Load(c Copying, _ *nothing) error {
	return s.at(c.FS, func(t *tree) error { return t.loadAll(c.Dir) })
}

func (s *server) Settle(dir string, _ *nothing) error {
	return s.at(dir, func(t *tree) error { t.settle(); return nil })
}

func (s *server) Arm(a Arming, _ *nothing) error {
	return s.at(a.FS, func(t *tree) error { t.plan, t.ops, t.hit = a.Plan, 0, false; return nil })
}

func (s *server) Count(dir string, out *Count) error {
	return s.at(dir, func(t *tree) error { *out = Count{t.ops, t.hit}; return nil })
}

func (s *server) Remains(c Copying, _ *nothing) error {
	return s.at(c.FS, func(t *tree) error { return (&remains{c.Aftermath, map[*node]string{}}).dir(t.find("."), c.Dir) })
}
