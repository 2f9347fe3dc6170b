package node

import (
	"strings"
	"testing"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest/wire"
)

// TestCopyThatWithholdsAConfirmationIsEnded: whichever it is, no copy comes to
// run, nothing of one is left, and what it is a copy of goes on.
func TestCopyThatWithholdsAConfirmationIsEnded(t *testing.T) {
	t.Parallel()
	for _, name := range wire.RequiredConfirmations() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			n := w.node(t)
			s := w.subject(t, n, dayfly.Running)
			for range 2 { // the second start makes the image's template, of which all later ones are copies
				ws, err := n.Create(t.Context(), spec)
				if err != nil {
					t.Fatal(err)
				}
				if err := n.Delete(t.Context(), ws.ID); err != nil {
					t.Fatal(err)
				}
			}
			left, running := len(w.left(t)), w.running()
			w.withhold.Store(&name)
			for what, do := range map[string]func() error{
				"fork":     func() error { _, err := n.Fork(t.Context(), s.ID, 2); return err },
				"snapshot": func() error { _, err := n.Create(t.Context(), dayfly.Spec{Snapshot: string(s.Snapshot)}); return err },
				"start":    func() error { _, err := n.Create(t.Context(), spec); return err },
			} {
				if err := do(); err == nil || !strings.Contains(err.Error(), "did not confirm") || !strings.Contains(err.Error(), name) {
					t.Errorf("%s = %v, want the missing %s", what, err, name)
				}
				if got := len(w.left(t)); got != left || w.running() != running {
					t.Errorf("after a %s: %d files instead of %d, %d machines instead of %d", what, got, left, w.running(), running)
				}
			}
			w.bring(t, n, s.ID, dayfly.Paused)
			if _, err := n.Resume(t.Context(), s.ID); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("Resume = %v, want the missing %s", err, name)
			}
			if ws, err := n.Get(t.Context(), s.ID); err != nil || ws.State != dayfly.Paused || w.running() != 0 {
				t.Errorf("after it the workspace is %s, %v, and %d machines run", ws.State, err, w.running())
			}
			w.withhold.Store(nil)
			if _, err := n.Resume(t.Context(), s.ID); err != nil {
				t.Errorf("Resume = %v", err)
			}
		})
	}
}
