package control_test

import (
	"testing"

	"github.com/dayfly/dayfly"
)

// TestWhatTheHostHasIsRecorded, also if no server was told of it: what commands
// kept, and what a killed server had made and not yet noted.
func TestWhatTheHostHasIsRecorded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.namespace("team", dayfly.Limits{})
	named := w.create(dayfly.Spec{Image: "base", Name: "web"})
	other, err := w.Create(in("team"), dayfly.Spec{Image: "base"}, dayfly.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.close()
	kept := dayfly.Workspace{ID: dayfly.NewID(), Name: "web", State: dayfly.Stopped, Spec: named.Spec, StartKind: dayfly.Cold}
	w.node.add(kept)
	sn, err := w.node.Snapshot(t.Context(), other.ID, "")
	if err != nil {
		t.Fatal(err)
	}
	w.open()

	got := w.get(kept.ID)
	if got.Namespace != dayfly.DefaultNamespace || got.State != dayfly.Stopped || got.Name != "" { // which is taken
		t.Errorf("found: %+v", got)
	}
	if ws := w.get(named.ID); ws.Name != "web" {
		t.Errorf("the name is now %q", ws.Name)
	}
	if _, err := w.GetSnapshot(in("team"), string(sn.ID)); err != nil {
		t.Errorf("the snapshot is not its workspace's namespace's: %v", err)
	}
	if _, err := w.Start(t.Context(), kept.ID); err != nil {
		t.Error(err)
	}
	w.reopen() // and nothing is found twice
	if page, err := w.List(t.Context(), dayfly.Query{}); err != nil || len(page.Workspaces) != 3 {
		t.Errorf("%d workspaces, %v", len(page.Workspaces), err)
	}
}
