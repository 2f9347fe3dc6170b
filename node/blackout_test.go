package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/test/blackout"
	"github.com/dayfly/dayfly/test/needs"
)

// newWorldOnBlackout is newWorld on a file system whose power can be cut. What is
// kept only to be faster lies elsewhere.
func newWorldOnBlackout(t *testing.T, host *blackout.Host) (*world, *blackout.FS) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "fs")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	fs := host.Mount(t, dir)
	beside := t.TempDir()
	for _, sub := range []string{"templates", "seeds"} {
		to := filepath.Join(beside, sub)
		if err := errors.Join(linkTree(filepath.Join(theWorld(), sub), to), os.Symlink(to, filepath.Join(dir, sub))); err != nil {
			t.Fatal(err)
		}
	}
	w := newWorldIn(t, dir)
	fs.Settle()
	return w, fs
}

// blackouts are the uses in the midst of which the power is cut. A fork makes one
// copy: of a file that gets links from several sides at once, Linux's FUSE takes its
// own count for the file system's, and may believe that it has none left.
func blackouts() []use {
	all := slices.Clone(uses)
	for i, u := range all {
		if u.name == "fork" || u.table == "photo" && u.name != "snapshot" {
			all[i].do = func(ctx context.Context, n *Node, s subject) error {
				_, err := n.Fork(ctx, s.ID, 1)
				return err
			}
		}
	}
	for _, u := range keyUses {
		if u.table != "merge" || layersAreThere() {
			all = append(all, u)
		}
	}
	return append(all, plainUses...)
}

// plainUses are verbs that work through no table and change no key.
var plainUses = []use{
	{name: "stop", state: dayfly.Running, loses: true, do: func(ctx context.Context, n *Node, s subject) error {
		_, err := n.Stop(ctx, s.ID)
		return err
	}},
	{name: "update", state: dayfly.Stopped, do: func(ctx context.Context, n *Node, s subject) error {
		to := dayfly.Spec{Name: "renamed", Keep: true}
		if !layersAreThere() {
			to.DiskMiB = 2 * spec.DiskMiB
		}
		_, err := n.Update(ctx, s.ID, to)
		return err
	}},
}

// eachOp runs a test for every op, which is a change of a file, that a use makes,
// and once more when there are no more: until the test says that it is over.
func eachOp(t *testing.T, test func(t *testing.T, host *blackout.Host, u use, at int) (over bool)) {
	needs.FUSE(t)
	host := blackout.Start(t) // before others have locks, which a child holds between fork and exec
	t.Parallel()
	step := 1
	if testing.Short() {
		step = 13
	}
	for _, u := range blackouts() {
		t.Run(u.name, func(t *testing.T) {
			t.Parallel()
			for at, over := 1, false; !over; at += step {
				if !t.Run("op "+strconv.Itoa(at), func(t *testing.T) { over = test(t, host, u, at) }) {
					return // the ops behind would say the same
				}
			}
		})
	}
}

// TestPowerCutLosesNothing cuts the power in every op, and after the last. What was
// synced survives alone, and with some of the rest.
func TestPowerCutLosesNothing(t *testing.T) { eachOp(t, cut) } //nolint:paralleltest // eachOp makes it so

// TestChangeThatFailsIsTakenBack fails every op: one after the other once, as a bad
// block does, and together with all behind it that takes space, as a full disk does.
func TestChangeThatFailsIsTakenBack(t *testing.T) { eachOp(t, spoil) } //nolint:paralleltest // likewise

// cut cuts the power in a use ahead of its op at, and reports whether the use was
// over by then.
func cut(t *testing.T, host *blackout.Host, u use, at int) (over bool) {
	w, fs := newWorldOnBlackout(t, host)
	w.mergeAbove = u.mergeAbove
	n := w.open(t)
	defer func() { _ = n.Close() }() // it may not be able to write any more
	s := w.subject(t, n, u.state)
	fs.Arm(blackout.Plan{At: at, Err: syscall.EIO, Going: true})
	err := u.do(t.Context(), n, s)
	_, hit := fs.Count()
	note := theNote
	if err == nil && strings.HasPrefix(u.name, "rollback") {
		note = snapshotNote
	}
	if ws, _ := n.Get(t.Context(), s.ID); !hit && ws.State == dayfly.Running {
		fs.Arm(blackout.Plan{})
		note = "a later note"
		w.write(t, n, s.ID, note)
	}
	fs.Arm(blackout.Plan{At: 1, Err: syscall.EIO, Going: true})
	_ = n.Close()
	if !hit && err != nil {
		t.Errorf("%s = %v", u.name, err)
	}
	all := blackout.Aftermaths()
	for _, a := range []blackout.Aftermath{all[0], all[1+at%(len(all)-1)]} {
		t.Run(string(a), func(t *testing.T) {
			dir := t.TempDir()
			fs.Remains(dir, a)
			newWorldIn(t, dir).survived(t, u, s, note, err == nil)
		})
	}
	return !hit
}

// survived holds what a power cut left to what is promised: all that was
// acknowledged is there, the use included if it is done, and nothing is left of the rest.
func (w *world) survived(t *testing.T, u use, s subject, note string, done bool) {
	t.Helper()
	n := w.node(t)
	list, err := n.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	snaps, err := n.Snapshots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for path := range w.files(t) {
		if base := filepath.Base(path); strings.HasPrefix(base, ".new-") || base == beforeDir {
			t.Errorf("left behind: %s", path)
		}
	}
	at := slices.IndexFunc(list, func(ws dayfly.Workspace) bool { return ws.ID == s.ID })
	has := slices.ContainsFunc(snaps, func(snap dayfly.Snapshot) bool { return snap.ID == s.Snapshot })
	switch {
	case at < 0 && !strings.HasPrefix(u.name, "delete a running") && !strings.HasPrefix(u.name, "delete a paused"):
		t.Fatalf("the workspace is lost: %+v", list)
	case !has && u.name != "delete a snapshot":
		t.Fatalf("the snapshot is lost: %+v", snaps)
	case done && u.name == "delete a snapshot" && has, done && u.name != "delete a snapshot" && strings.HasPrefix(u.name, "delete") && at >= 0:
		t.Errorf("deleted, and there: %v, %v", list, snaps)
	case done && u.name == "snapshot" && len(snaps) != 2:
		t.Errorf("acknowledged, and lost: %v", snaps)
	}
	if at >= 0 && (u.name == "delete a snapshot" || !strings.HasPrefix(u.name, "delete")) {
		w.goesOn(t, n, u, s, list[at].State, note, done)
	}
	if at >= 0 && has && !strings.HasPrefix(u.name, "delete") {
		if _, err := n.Rollback(t.Context(), s.ID, string(s.Snapshot)); err != nil {
			t.Errorf("Rollback = %v", err)
		}
		w.check(t, n, s.ID, dayfly.Running, snapshotNote)
	}
	for _, ws := range list {
		if err := n.Delete(t.Context(), ws.ID); err != nil {
			t.Error(err)
		}
	}
	for _, snap := range snaps {
		if err := n.DeleteSnapshot(t.Context(), string(snap.ID)); err != nil {
			t.Error(err)
		}
	}
	if left := w.left(t); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// goesOn holds the workspace to what it was before the use, or after it.
func (w *world) goesOn(t *testing.T, n *Node, u use, s subject, state dayfly.State, note string, done bool) {
	t.Helper()
	allowed := map[dayfly.State][]dayfly.State{
		dayfly.Running: {dayfly.Failed}, dayfly.Failed: {dayfly.Failed},
		dayfly.Stopped: {dayfly.Stopped, dayfly.Failed}, dayfly.Paused: {dayfly.Paused, dayfly.Failed},
	}[u.state]
	if u.name == "pause" {
		allowed = []dayfly.State{dayfly.Failed, dayfly.Paused}
		if done {
			allowed = allowed[1:]
		}
	}
	if u.name == "stop" {
		allowed = []dayfly.State{dayfly.Failed, dayfly.Stopped}
		if done {
			allowed = allowed[1:]
		}
	}
	if !slices.Contains(allowed, state) {
		t.Fatalf("the workspace is %s, not one of %s", state, allowed)
	}
	if strings.HasPrefix(u.name, "rollback") && state == dayfly.Failed {
		if _, err := n.Start(t.Context(), s.ID); err != nil {
			t.Fatal(err)
		}
		if got := w.read(t, n, s.ID).Disk; got != note && (got != snapshotNote || done) {
			t.Errorf("rolled back: %t; and the disk has %q, not %q", done, got, note)
		}
		return
	}
	if u.name == "resume" && state == dayfly.Failed && !done { // its pause is still there
		if _, err := n.Resume(t.Context(), s.ID); err != nil {
			t.Fatal(err)
		}
		state = dayfly.Running
	}
	w.check(t, n, s.ID, state, note)
	w.write(t, n, s.ID, note) // which must be into files that are nobody else's
}

// spoil fails an op of a use, and reports whether the use was over by then.
func spoil(t *testing.T, host *blackout.Host, u use, at int) (over bool) {
	if u.table == "merge" {
		return true // what fails of that is behind all that anybody asked for
	}
	w, fs := newWorldOnBlackout(t, host)
	n := w.open(t)
	defer func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}()
	s := w.subject(t, n, u.state)
	before := w.files(t)
	p := blackout.Plan{At: at, Err: syscall.EIO}
	if (at%2 == 0) == layersAreThere() { // with raw drives it is the other way round
		p.Err, p.Going = syscall.ENOSPC, true
	}
	fs.Arm(p)
	err := u.do(t.Context(), n, s)
	ops, hit := fs.Count()
	fs.Arm(blackout.Plan{})
	switch {
	case err == nil: // it was over, or it could do without
	case errors.Is(err, syscall.ENOSPC) && dayfly.KindOf(err) != dayfly.Exhausted:
		t.Errorf("%s on a full disk = %v (%s)", u.name, err, dayfly.KindOf(err))
	case !hit:
		t.Errorf("%s = %v", u.name, err)
	case !strings.HasPrefix(u.name, "delete"):
		if err := restoreChain(workspaceDir(w.dir, s.ID)); err != nil { // as the next start does: there is room now
			t.Fatal(err)
		}
		w.unharmed(t, n, u, s, before)
	}
	list, err := n.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, ws := range list {
		orRefused(t, "Delete", n.Delete(t.Context(), ws.ID), dayfly.NotFound)
	}
	snaps, err := n.Snapshots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, snap := range append(snaps, dayfly.Snapshot{ID: s.Snapshot}) {
		orRefused(t, "DeleteSnapshot", n.DeleteSnapshot(t.Context(), string(snap.ID)), dayfly.NotFound)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	w.reboot()
	n = w.open(t) // what could not be removed goes now
	if left := w.left(t); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	return ops < at // a full disk may have let those through that take no space
}
