package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/test/needs"
)

// mounted gives a state directory of its own file system to a test, with the
// images and kernels of the prepared one.
func mounted(t *testing.T, mount func(dir string) error) string {
	t.Helper()
	prepared := newState(t)
	dir := filepath.Join(prepared, "fs")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := mount(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	})
	for _, sub := range []string{"images", "kernels"} {
		if err := os.Symlink(filepath.Join(prepared, sub), filepath.Join(dir, sub)); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { assertNothingLeft(t, dir) })
	return dir
}

// fill takes all but some KiB of a file system, until the returned is called.
func fill(t *testing.T, dir string, spare int64) (release func()) {
	t.Helper()
	path := filepath.Join(dir, ".filler")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err = unix.ENOSPC; errors.Is(err, unix.ENOSPC); { // somebody wrote after the look at what is free
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			t.Fatal(err)
		}
		err = unix.Fallocate(int(f.Fd()), 0, 0, int64(st.Bavail)*st.Bsize-spare<<10)
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
}

// files lists what there is below a directory, but for the layers of disks: a
// machine that was given another one goes on with that.
func files(t *testing.T, dir string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "find", dir, "-type", "f", "-not", "-name", ".filler", "-not", "-name", "disk.*").Output()
	if err != nil {
		t.Fatal(err)
	}
	list := strings.Fields(string(out))
	slices.Sort(list)
	return list
}

// TestFullHostDiskCostsNoWorkspace: where there is no room to save or copy a
// workspace the caller is told so, nothing of it is left, and the workspace goes
// on; with room again it works.
func TestFullHostDiskCostsNoWorkspace(t *testing.T) {
	needs.Mount(t)
	t.Parallel()
	state := mounted(t, func(dir string) error { return unix.Mount("small", dir, "tmpfs", 0, "size=512m") })
	s := serve(t, state)
	id := s.create(t)
	s.sh(t, id, `echo kept > /dev/shm/file; sync`)
	ops := [][]string{
		{"pause", string(id)},
		{"snapshot", "create", string(id)},
		{"fork", string(id), "-n", "2"},
		{"run", "base", "--", "true"},
	}
	for _, spare := range []int64{0, 64, 8 << 10} { // KiB
		for _, op := range ops {
			if spare > 0 && (op[0] == "fork" || op[0] == "run") {
				continue // which may be room enough
			}
			before := files(t, state)
			release := fill(t, state, spare)
			r := s.run(t, op...)
			if r.code == 0 || !strings.Contains(r.stderr, "no space left") {
				t.Errorf("%s with %d KiB free: %+v", op[0], spare, r)
			}
			if after := files(t, state); !slices.Equal(before, after) {
				t.Errorf("%s with %d KiB free left (-before +after):\n%s", op[0], spare, cmp.Diff(before, after))
			}
			release()
			if out := s.sh(t, id, "cat /dev/shm/file; echo written > /home/user/file; sync; cat /home/user/file"); out != "kept\nwritten\n" {
				t.Errorf("after %s with %d KiB free it has %q", op[0], spare, out)
			}
		}
	}
	s.must(t, "pause", string(id))
	release := fill(t, state, 0)
	r := s.run(t, "resume", string(id))
	release()
	if r.code == 0 {
		s.must(t, "pause", string(id))
	} else if !strings.Contains(r.stderr, "no space left") {
		t.Errorf("resume on a full disk: %+v", r)
	}
	s.must(t, "resume", string(id))
	if out := s.sh(t, id, "cat /dev/shm/file"); out != "kept\n" {
		t.Errorf("resumed, it has %q", out)
	}
}

// TestFileSystemsThatShareBlocks: a state directory may lie on any of these.
func TestFileSystemsThatShareBlocks(t *testing.T) {
	t.Parallel()
	for _, fs := range []struct {
		name string
		mkfs func(testing.TB) string
		args []string
	}{
		{"xfs", needs.XFS, []string{"-q"}},
		{"btrfs", needs.Btrfs, []string{"-q"}},
	} {
		t.Run(fs.name, func(t *testing.T) {
			needs.Loop(t)
			mkfs := fs.mkfs(t)
			state := mounted(t, func(dir string) error { return loopMount(t, dir, fs.name, append([]string{mkfs}, fs.args...)) })
			s := serve(t, state)
			id := s.create(t)
			c := s.count(t, id)
			s.must(t, "snapshot", "create", string(id), "--name", "here")
			for range 2 {
				s.must(t, "pause", string(id))
				s.must(t, "resume", string(id))
				c = s.goesOn(t, id, c)
			}
			for _, child := range s.must(t, "fork", string(id), "-n", "2") {
				s.goesOn(t, idOf(t, child), c)
			}
			s.must(t, "rollback", string(id), "here")
			s.goesOn(t, id, tally{pid: c.pid, files: c.files})
		})
	}
}

// loopMount makes a file system in a file and mounts it.
func loopMount(t *testing.T, dir, kind string, mkfs []string) error {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fs")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(path, 2<<30); err != nil {
		return err
	}
	for _, line := range [][]string{append(mkfs, path), {"mount", "-t", kind, "-o", "loop", path, dir}} {
		if out, err := exec.CommandContext(t.Context(), line[0], line[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%q: %w: %s", line, err, out)
		}
	}
	return nil
}
