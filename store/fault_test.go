package store

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/test/needs"
	pg "github.com/dayfly/dayfly/test/postgres"
)

func TestRestartedServerIsUsedAgain(t *testing.T) {
	t.Parallel()
	server := pg.Start(t)
	s := open(t, server.Database(t))
	kept := create(t, s, fresh("default"))[0]
	// Connections that the restart breaks without their pool knowing.
	equal(t, race(postgresConns, func(int) error { return s.Ping(t.Context()) }), map[dayfly.Kind]int{"": postgresConns})

	server.Restart(t)
	create(t, s, fresh("default"))
	server.Restart(t)
	_, err := s.Get(t.Context(), kept.ID)
	no(t, err)

	server.Stop(t)
	for _, err := range []error{
		s.Ping(t.Context()),
		s.Forget(t.Context(), "default", "k"),
		second(s.Get(t.Context(), kept.ID)),
	} {
		want(t, err, dayfly.Unavailable)
		var e *dayfly.Error
		if errors.As(err, &e) && !strings.Contains(e.Msg, "the database does not answer") {
			t.Errorf("message for callers: %q", e.Msg)
		}
	}
	server.Run(t)
	create(t, s, fresh("default"))
}

func second[T any](_ T, err error) error { return err }

// TestRestartInTheMiddleLosesAndDoublesNothing cuts transactions off at any point.
func TestRestartInTheMiddleLosesAndDoublesNothing(t *testing.T) {
	t.Parallel()
	server := pg.Start(t)
	s := open(t, server.Database(t))
	var all sync.WaitGroup
	outcomes, stop := make(chan outcome), make(chan struct{})
	for range 6 {
		all.Go(func() { createUntil(t, s, stop, outcomes) })
	}
	var seen []outcome
	for range 4 {
		for range 50 {
			seen = append(seen, <-outcomes)
		}
		server.Restart(t)
	}
	close(stop)
	all.Wait()
	failed := 0
	for _, o := range seen {
		id := o.asked.Records[0].ID
		if o.err != nil {
			failed++
			want(t, o.err, dayfly.Unavailable)
			_, _, err := s.Create(t.Context(), o.asked) // asking again is safe, whatever came of it
			no(t, err)
		}
		events, err := s.Events(t.Context(), dayfly.EventQuery{Workspace: id})
		no(t, err)
		if len(events) != 1 {
			t.Errorf("workspace %s has %d events", id, len(events))
		}
		_, err = s.Get(t.Context(), id)
		no(t, err)
	}
	t.Logf("%d of %d creations were cut off", failed, len(seen))
}

type outcome struct {
	asked Creation
	err   error
}

// createUntil reports every creation that reached the server.
func createUntil(t *testing.T, s *Store, stop <-chan struct{}, outcomes chan<- outcome) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		r := fresh("default")
		c := Creation{Records: []Record{r}, Events: []dayfly.Event{{Namespace: "default", Workspace: r.ID}}, Once: Once{Key: string(r.ID)}}
		_, _, err := s.Create(t.Context(), c)
		if isUnreachable(err) {
			continue // nothing was begun
		}
		select {
		case <-stop:
			return
		case outcomes <- outcome{c, err}:
		}
	}
}

func TestLockedFileIsWaitedForThenUnavailable(t *testing.T) {
	t.Parallel()
	url := newURL(t, sqlite)
	s, other := open(t, url), open(t, url)
	conn, err := other.write.Conn(t.Context())
	no(t, err)
	defer conn.Close()
	_, err = conn.ExecContext(t.Context(), "BEGIN IMMEDIATE")
	no(t, err)
	done := make(chan error, 1)
	go func() {
		_, _, err := s.Create(t.Context(), Creation{Records: []Record{fresh("default")}})
		done <- err
	}()
	err = <-done
	want(t, err, dayfly.Unavailable)
	if !strings.Contains(err.Error(), "locked by another process") {
		t.Error(err)
	}
	no(t, s.Ping(t.Context())) // reading goes on

	go func() {
		_, _, err := s.Create(t.Context(), Creation{Records: []Record{fresh("default")}})
		done <- err
	}()
	_, err = conn.ExecContext(t.Context(), "ROLLBACK")
	no(t, err)
	no(t, <-done)
}

func TestEndedRequestLeavesTheStoreInOrder(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		_, _, err := s.Create(ended, Creation{Records: []Record{fresh("default")}})
		want(t, err, dayfly.Unavailable)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("the error does not say that the request ended: %v", err)
		}
		inTheMiddle, cancel := context.WithCancel(t.Context())
		err = s.change(inTheMiddle, "be cut off", func(ctx context.Context, q session) error {
			defer cancel()
			return q.insert(ctx, fresh("default"))
		})
		want(t, err, dayfly.Unavailable)
		counts, err := s.Counts(t.Context())
		no(t, err)
		equal(t, counts, map[dayfly.State]int{})
		create(t, s, fresh("default"))
	})
}

func TestFullDiskIsExhaustedAndHeals(t *testing.T) {
	t.Parallel()
	needs.Mount(t)
	dir := t.TempDir()
	no(t, unix.Mount("dayfly", dir, "tmpfs", 0, "size=2m"))
	t.Cleanup(func() { no(t, unix.Unmount(dir, 0)) })
	ballast := filepath.Join(dir, "ballast")
	no(t, os.WriteFile(ballast, make([]byte, 800<<10), 0o600))
	s := open(t, "sqlite://"+filepath.Join(dir, "a.db"))
	var made []Record
	var err error
	for err == nil {
		var r []Record
		r, _, err = s.Create(t.Context(), Creation{Records: []Record{fresh("default", func(r *Record) {
			r.Spec.Env = map[string]string{"A": strings.Repeat("x", 20_000)}
		})}})
		made = append(made, r...)
	}
	want(t, err, dayfly.Exhausted)
	if !strings.Contains(err.Error(), "no space left for the database") {
		t.Error(err)
	}
	listed := walk(t, s, dayfly.Query{Order: dayfly.OldestFirst}, nil)
	equal(t, ids(listed), ids(made))

	no(t, os.Remove(ballast))
	made = append(made, create(t, s, fresh("default"))...)
	equal(t, len(walk(t, s, dayfly.Query{}, nil)), len(made))
}

func TestUnusableFileIsNamed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	garbage := filepath.Join(dir, "garbage.db")
	no(t, os.WriteFile(garbage, bytes.Repeat([]byte("no database "), 1000), 0o600))

	damaged := filepath.Join(dir, "damaged.db")
	s := open(t, "sqlite://"+damaged)
	for range 50 {
		create(t, s, fresh("default"))
	}
	no(t, s.Close())
	whole, err := os.ReadFile(damaged)
	no(t, err)
	copy(whole[4096:], bytes.Repeat([]byte{0xa5}, 40_000))
	no(t, os.WriteFile(damaged, whole, 0o600))

	for path, says := range map[string]string{
		garbage:                            "is damaged or no database",
		damaged:                            "is damaged or no database",
		filepath.Join(dir, "no", "dir.db"): "its directory is not there",
		dir:                                "cannot be written",
	} {
		_, err := Open(t.Context(), Options{URL: "sqlite://" + path})
		want(t, err, dayfly.Unavailable)
		if !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want %q", path, err, says)
		}
	}
}

func TestReadOnlyDirectoryIsNamed(t *testing.T) {
	t.Parallel()
	needs.Mount(t)
	dir := t.TempDir()
	no(t, unix.Mount("dayfly", dir, "tmpfs", 0, ""))
	t.Cleanup(func() { no(t, unix.Unmount(dir, 0)) })
	there := "sqlite://" + filepath.Join(dir, "there.db")
	no(t, open(t, there).Close())
	no(t, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	for _, url := range []string{there, "sqlite://" + filepath.Join(dir, "new.db")} {
		_, err := Open(t.Context(), Options{URL: url})
		want(t, err, dayfly.Unavailable)
		if !strings.Contains(err.Error(), "cannot be written") {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestNewerDatabaseIsLeftAlone(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		r := create(t, s, fresh("default"))[0]
		_, err := s.write.ExecContext(t.Context(), `INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, $1)`, true)
		no(t, err)
		url := "sqlite://" + s.at.path
		if s.at.engine == postgres {
			url = s.at.dsn
		}
		_, err = Open(t.Context(), Options{URL: url})
		want(t, err, dayfly.Unavailable)
		if !strings.Contains(err.Error(), "written by a newer release") {
			t.Error(err)
		}
		_, err = s.Get(t.Context(), r.ID)
		no(t, err)
	})
}

func TestServersThatBeginAtOnceMakeOneDatabase(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{sqlite, postgres} {
		url := newURL(t, engine)
		equal(t, race(6, func(int) error {
			s, err := Open(t.Context(), Options{URL: url})
			if err != nil {
				return err
			}
			return s.Close()
		}), map[dayfly.Kind]int{"": 6})
	}
}

func TestPasswordIsNeverShown(t *testing.T) {
	t.Parallel()
	const secret = "hunter2secret"
	var log bytes.Buffer
	for _, url := range []string{
		"postgres://me:" + secret + "@localhost:1/db",
		"postgres://me:" + secret + "@localhost:1/db?sslmode=nonsense",
		"postgres://me:" + secret + "@localhost:port/db",
		"postgres://me:" + secret + "@localhost/db?password=" + secret,
		"postgres://me:" + secret + "@localhost",
		"postgres://me:%zz" + secret + "@localhost/db",
		"mysql://me:" + secret + "@localhost/db",
		secret,
		"sqlite://me:" + secret + "@host/path",
		"sqlite:///path?key=" + secret,
		"postgres://me:" + secret + "@" + t.TempDir() + "/db",
	} {
		_, err := Open(t.Context(), Options{URL: url, Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err == nil || strings.Contains(err.Error(), secret) || strings.Contains(log.String(), secret) {
			t.Errorf("%s: %v; log %s", url, err, log.String())
		}
	}
	server := pg.Shared(t)
	url := strings.Replace(server.Database(t), "@", ":"+secret+"@", 1)
	s, err := Open(t.Context(), Options{URL: url, Log: slog.New(slog.NewTextHandler(&log, nil))})
	no(t, err)
	no(t, s.Close())
	_, err = Open(t.Context(), Options{URL: strings.Replace(url, "/test", "/missing", 1)})
	want(t, err, dayfly.Unavailable)
	if strings.Contains(log.String(), secret) || strings.Contains(err.Error(), secret) || !strings.Contains(err.Error(), "no such database") {
		t.Errorf("%v; log %s", err, log.String())
	}
}

func TestURLSaysWhatIsAllowed(t *testing.T) {
	t.Parallel()
	for url, says := range map[string]string{
		"":                              "no scheme",
		"mysql://x/y":                   "use sqlite:///path/to/file or postgres://",
		"sqlite:relative.db":            "absolute path",
		"sqlite://relative.db":          "three slashes",
		"sqlite:///":                    "absolute path",
		"sqlite:///a/":                  "absolute path",
		"sqlite:///a?mode=ro":           "nothing else",
		"sqlite:///a#b":                 "nothing else",
		"postgres://h/d?pool_size=3":    "search_path",
		"postgres://h/d?sslmode=absurd": "not one of PostgreSQL",
	} {
		_, err := Open(t.Context(), Options{URL: url})
		want(t, err, dayfly.Invalid)
		if !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", url, err, says)
		}
	}
	odd := filepath.Join(t.TempDir(), "a b?c%41#.db")
	s := open(t, "sqlite://"+strings.NewReplacer("%", "%25", " ", "%20", "?", "%3F", "#", "%23").Replace(odd))
	no(t, s.Ping(t.Context()))
	if _, err := os.Stat(odd); err != nil {
		t.Error(err)
	}
}

func TestFilesAreTheirOwnersAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, "sqlite://"+filepath.Join(dir, "a.db"))
	create(t, s, fresh("default"))
	no(t, s.Backup(t.Context(), filepath.Join(dir, "backup.db")))
	files, err := os.ReadDir(dir)
	no(t, err)
	var names []string
	for _, f := range files {
		info, err := f.Info()
		no(t, err)
		names = append(names, f.Name())
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", f.Name(), info.Mode())
		}
	}
	equal(t, names, []string{"a.db", "a.db-shm", "a.db-wal", "backup.db"})
}

func TestDurabilityIsAskedFor(t *testing.T) {
	t.Parallel()
	s := open(t, newURL(t, sqlite))
	for pragma, value := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "busy_timeout": millis(busyTimeout)} {
		var got string
		no(t, s.write.QueryRowContext(t.Context(), "PRAGMA "+pragma).Scan(&got))
		equal(t, got, value)
	}
	if _, err := s.read.ExecContext(t.Context(), `DELETE FROM events`); err == nil {
		t.Error("a reader may write")
	}
}

func FuzzURL(f *testing.F) {
	for _, text := range []string{"sqlite:///a/b", "postgres://u:p@h:1/d?sslmode=disable", "postgres:///d?host=/run", "x", "sqlite:///%00"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		at, err := parseURL(text)
		if err != nil {
			want(t, err, dayfly.Invalid)
			return
		}
		if at.engine == sqlite && (!filepath.IsAbs(at.path) || strings.ContainsRune(at.path, 0)) {
			t.Fatalf("%q is the file %q", text, at.path)
		}
		if at.engine == postgres && strings.ContainsAny(at.shown, "?#") {
			t.Fatalf("%q is shown as %q", text, at.shown)
		}
	})
}
