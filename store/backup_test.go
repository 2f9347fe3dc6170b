package store

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/dayfly/dayfly"
)

func TestBackupIsWholeWhileWritesGoOn(t *testing.T) {
	t.Parallel()
	s := open(t, newURL(t, sqlite))
	before := create(t, s, fresh("default", named("kept")))[0]
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			r := fresh("default")
			if _, _, err := s.Create(t.Context(), Creation{Records: []Record{r, fresh("default")}, Events: make([]dayfly.Event, 2)}); err != nil {
				done <- err
				return
			}
		}
	}()
	dir := t.TempDir()
	for i := range 5 {
		no(t, s.Backup(t.Context(), filepath.Join(dir, fmt.Sprintf("%d.db", i))))
	}
	close(stop)
	no(t, <-done)
	for i := range 5 {
		restored := open(t, fmt.Sprintf("sqlite://%s/%d.db", dir, i))
		got, err := restored.Get(t.Context(), before.ID)
		no(t, err)
		equal(t, got, before)
		counts, err := restored.Counts(t.Context())
		no(t, err)
		seq, err := restored.LastEvent(t.Context())
		no(t, err)
		if int64(counts[dayfly.Running]) != 1+seq {
			t.Errorf("backup %d has %d workspaces and %d events", i, counts[dayfly.Running], seq)
		}
		create(t, restored, fresh("default"))
	}
}

func TestBackupNeverOverwrites(t *testing.T) {
	t.Parallel()
	s := open(t, newURL(t, sqlite))
	dir := t.TempDir()
	path := filepath.Join(dir, "there")
	no(t, os.WriteFile(path, []byte("precious"), 0o600))
	want(t, s.Backup(t.Context(), path), dayfly.Conflict)
	want(t, s.Backup(t.Context(), filepath.Join(dir, "no", "where")), dayfly.Unavailable)
	left, err := os.ReadDir(dir)
	no(t, err)
	text, err := os.ReadFile(path)
	no(t, err)
	if len(left) != 1 || string(text) != "precious" {
		t.Errorf("left: %v, %q", left, text)
	}
	want(t, open(t, newURL(t, postgres)).Backup(t.Context(), filepath.Join(dir, "x")), dayfly.Invalid)
}
