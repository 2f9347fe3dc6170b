package flock_test

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/flock"
)

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestOneHoldsALockAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, kind := range map[string]struct{ alone, shared func(*os.File) error }{
		"file": {
			func(f *os.File) error { return flock.Try(f, unix.LOCK_EX) },
			func(f *os.File) error { return flock.Try(f, unix.LOCK_SH) },
		},
		"range": {
			func(f *os.File) error { return flock.TryRange(f, unix.Flock_t{Type: unix.F_WRLCK, Len: 1}) },
			func(f *os.File) error { return flock.TryRange(f, unix.Flock_t{Type: unix.F_RDLCK, Len: 1}) },
		},
	} {
		path := filepath.Join(dir, name)
		first, second, third := open(t, path), open(t, path), open(t, path)
		if err := kind.alone(first); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, f := range []*os.File{second, third} {
			if err := kind.shared(f); !errors.Is(err, flock.ErrHeld) {
				t.Errorf("%s: the lock that another has alone = %v", name, err)
			}
		}
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		for _, f := range []*os.File{second, third} {
			// The other test's child may have had the first one's file for a moment.
			if err := flock.Within(t.Context(), flock.Forever, func() error { return kind.shared(f) }); err != nil {
				t.Errorf("%s: two that share: %v", name, err)
			}
		}
		if err := kind.alone(third); !errors.Is(err, flock.ErrHeld) {
			t.Errorf("%s: alone, with what is shared = %v", name, err)
		}
	}
	if err := flock.Try(open(t, filepath.Join(dir, "another")), 1<<20); err == nil || errors.Is(err, flock.ErrHeld) {
		t.Errorf("a lock that there is not = %v", err)
	}
}

// TestTheDeadAreWaitedFor has a child keep the files of a holder that is gone, as
// one does that is no other program yet.
func TestTheDeadAreWaitedFor(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	held := open(t, path)
	if err := flock.Try(held, unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), "cat")
	child.ExtraFiles = []*os.File{held}
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write([]byte("begun\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	next := open(t, path)
	if err := flock.Within(t.Context(), 0, func() error { return flock.Try(next, unix.LOCK_EX) }); !errors.Is(err, flock.ErrHeld) {
		t.Fatalf("a lock that a child still has = %v", err)
	}
	tries := 0
	err = flock.Within(t.Context(), flock.Forever, func() error {
		if tries++; tries == 3 {
			_ = in.Close() // the child ends
		}
		return flock.Try(next, unix.LOCK_EX)
	})
	if err != nil || tries < 3 {
		t.Errorf("after %d tries: %v", tries, err)
	}
	if err := child.Wait(); err != nil {
		t.Error(err)
	}
}

func TestWaitingEnds(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for _, c := range []struct {
		name string
		err  error
		want error
	}{{"another error", broken, broken}, {"none", nil, nil}} {
		tries := 0
		err := flock.Within(t.Context(), flock.Forever, func() error { tries++; return c.err })
		if !errors.Is(err, c.want) || tries != 1 {
			t.Errorf("%s: %v after %d tries", c.name, err, tries)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	err := flock.Within(ctx, flock.Forever, func() error { cancel(broken); return flock.ErrHeld })
	if !errors.Is(err, broken) {
		t.Errorf("an ended context = %v", err)
	}
	if err := flock.Within(t.Context(), 1, func() error { return flock.ErrHeld }); !errors.Is(err, flock.ErrHeld) {
		t.Errorf("a lock that stays held = %v", err)
	}
}
