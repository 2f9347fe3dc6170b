package node

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/dayfly/dayfly"
)

// TestNewIDIsLockedBesideSweeps: a sweep that finds a lock's file before its maker
// has the lock holds it for a moment, which is no other owner.
func TestNewIDIsLockedBesideSweeps(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	locks := filepath.Join(dir, "locks")
	if err := os.Mkdir(locks, 0o700); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var sweeps sync.WaitGroup
	defer sweeps.Wait()
	defer close(done)
	for range 2 {
		sweeps.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				ents, err := os.ReadDir(locks)
				if err != nil {
					t.Error(err)
					return
				}
				for _, e := range ents {
					if l, err := lockWorkspace(dir, dayfly.ID(e.Name())); err == nil {
						l.release()
					}
				}
			}
		})
	}
	for range 2000 {
		id := dayfly.NewID()
		l, err := lockNew(dir, id)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := lockWorkspace(dir, id); dayfly.KindOf(err) != dayfly.Conflict {
			t.Fatalf("it can be locked twice: %v", err)
		}
		l.release()
	}
}
