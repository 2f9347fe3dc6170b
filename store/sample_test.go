package store

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/dayfly/dayfly"
)

// newest is the sample of the version that is being made.
const newest = "v4.db"

var makeSample = flag.Bool("make-sample", false, "write testdata/"+newest+"; never of a version that is released")

const sampleID = dayfly.ID("waaaabbbbccccddddeeee")

// sample is what each of testdata holds.
func sample() (Creation, KeyRecord, SnapshotRecord, dayfly.Webhook) {
	at := time.Date(2026, 11, 25, 12, 30, 0, 123456000, time.UTC)
	end := at.Add(time.Hour)
	ws := dayfly.Workspace{
		ID: sampleID, Namespace: "team", Name: "box", State: dayfly.Stopped, CreatedAt: at, ExpiresAt: &end,
		Spec: dayfly.Spec{Image: "base", CPUs: 2, MemoryMiB: 512, DiskMiB: 8192, Keep: true, Metadata: map[string]string{"task": "ü"}, Env: map[string]string{"A": "b"}},
		Exit: &dayfly.Exit{Code: 3, At: at},
	}
	return Creation{
			Records: []Record{{Workspace: ws, Durable: true, StoppedByCaller: true}},
			Events:  []dayfly.Event{{ID: "evt_1", Type: dayfly.WorkspaceCreated, At: at, Namespace: "team", Workspace: sampleID}},
			Once:    Once{Key: "once", Request: "digest"},
		},
		KeyRecord{Key: dayfly.Key{ID: "k1", Name: "ci", Namespace: "team", CreatedAt: at}, Digest: []byte{1, 2, 3}},
		SnapshotRecord{Namespace: "team", Snapshot: dayfly.Snapshot{ID: sampleID, Name: "before", Workspace: sampleID, CreatedAt: at}},
		dayfly.Webhook{ID: "h1", Namespace: "team", URL: "https://example.com/", Active: true, CreatedAt: at, Secret: "whsec_example"}
}

func writeSample(t *testing.T, path string) {
	t.Helper()
	creation, key, snapshot, webhook := sample()
	s := open(t, newURL(t, sqlite))
	no(t, s.CreateNamespace(t.Context(), dayfly.Namespace{Name: "team", CreatedAt: webhook.CreatedAt, Limits: dayfly.Limits{Workspaces: 1}}, Once{}))
	no(t, s.CreateWebhook(t.Context(), webhook, Once{}))
	no(t, s.CreateKey(t.Context(), key, Once{}))
	_, _, err := s.Create(t.Context(), creation)
	no(t, err)
	no(t, s.CreateSnapshot(t.Context(), snapshot, Once{}))
	no(t, s.AddAudit(t.Context(), dayfly.AuditEntry{At: webhook.CreatedAt, Key: "k1", Action: "POST /v1/workspaces", Status: 201}))
	_, err = s.Enqueue(t.Context(), 1)
	no(t, err)
	no(t, s.Backup(t.Context(), path))
}

// TestDatabaseOfEachVersionOpens holds for ever, whatever the tables become.
func TestDatabaseOfEachVersionOpens(t *testing.T) {
	t.Parallel()
	if *makeSample {
		no(t, os.RemoveAll(filepath.Join("testdata", newest)))
		writeSample(t, filepath.Join("testdata", newest))
	}
	for _, name := range []string{"v1.db", newest} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opens(t, filepath.Join("testdata", name))
		})
	}
}

func opens(t *testing.T, stored string) {
	bytes, err := os.ReadFile(stored)
	no(t, err)
	path := filepath.Join(t.TempDir(), "sample.db")
	no(t, os.WriteFile(path, bytes, 0o600))
	s := open(t, "sqlite://"+path)

	creation, key, snapshot, webhook := sample()
	record := creation.Records[0]
	record.Revision = 1
	got, err := s.Find(t.Context(), "team", "box")
	no(t, err)
	equal(t, got, record)
	page, err := s.List(t.Context(), dayfly.Query{Metadata: map[string]string{"task": "ü"}})
	no(t, err)
	equal(t, page.Records, []Record{record})
	gotKey, err := s.Key(t.Context(), "k1")
	no(t, err)
	equal(t, gotKey, key)
	gotSnapshot, err := s.Snapshot(t.Context(), "team", "before")
	no(t, err)
	equal(t, gotSnapshot, snapshot)
	gotWebhook, err := s.Webhook(t.Context(), "h1")
	no(t, err)
	equal(t, gotWebhook, webhook)
	equal(t, due(t, s, time.Now()), []string{"h1:1"})
	audit, err := s.Audit(t.Context(), dayfly.AuditQuery{})
	no(t, err)
	equal(t, len(audit), 1)
	s.now = func() time.Time { return record.CreatedAt } // the request is not a day old then
	made, before, err := s.Made(t.Context(), Once{Namespace: "team", Key: "once", Request: "digest"})
	no(t, err)
	equal(t, made, []string{string(sampleID)})
	equal(t, before, true)
	s.now = time.Now

	_, _, err = s.Create(t.Context(), Creation{Records: []Record{fresh("team")}})
	want(t, err, dayfly.Exhausted)
	create(t, s, fresh("default"))
}
