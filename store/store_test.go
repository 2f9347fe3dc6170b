package store

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"

	"github.com/dayfly/dayfly"
	pg "github.com/dayfly/dayfly/test/postgres"
)

func TestMain(m *testing.M) {
	if url := os.Getenv(childURL); url != "" {
		os.Exit(loadUntilKilled(url))
	}
	code := pg.Main(m)
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// onBoth runs a promise on each engine, with an empty database.
func onBoth(t *testing.T, promise func(t *testing.T, s *Store)) {
	t.Helper()
	t.Parallel()
	for _, engine := range []string{sqlite, postgres} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			promise(t, open(t, newURL(t, engine)))
		})
	}
}

func newURL(t testing.TB, engine string) string {
	t.Helper()
	if engine == postgres {
		return pg.Shared(t).Database(t)
	}
	return "sqlite://" + filepath.Join(t.TempDir(), "dayfly.db")
}

func open(t testing.TB, url string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Options{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// fresh is a small running workspace, not yet stored.
func fresh(namespace string, change ...func(*Record)) Record {
	r := Record{Workspace: dayfly.Workspace{
		ID: dayfly.NewID(), Namespace: namespace, State: dayfly.Running, CreatedAt: time.Now(),
		Spec: dayfly.Spec{Image: "base", CPUs: 1, MemoryMiB: 512, DiskMiB: 1024},
	}}
	for _, f := range change {
		f(&r)
	}
	return r
}

func named(name string) func(*Record) { return func(r *Record) { r.Name = name } }

func inState(s dayfly.State) func(*Record) { return func(r *Record) { r.State = s } }

func create(t testing.TB, s *Store, records ...Record) []Record {
	t.Helper()
	made, before, err := s.Create(t.Context(), Creation{Records: records})
	if err != nil || before {
		t.Fatalf("Create = %v, %v", before, err)
	}
	return made
}

func namespace(t testing.TB, s *Store, name string, limits dayfly.Limits) {
	t.Helper()
	if err := s.CreateNamespace(t.Context(), dayfly.Namespace{Name: name, CreatedAt: time.Now(), Limits: limits}, Once{}); err != nil {
		t.Fatal(err)
	}
}

func want(t testing.TB, err error, kind dayfly.Kind) {
	t.Helper()
	if dayfly.KindOf(err) != kind {
		t.Fatalf("error is %q (%v), want %q", dayfly.KindOf(err), err, kind)
	}
}

// no fails unless err is nil.
func no(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal(t testing.TB, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
		t.Fatalf("not the same (-want +got):\n%s", d)
	}
}

func ids(records []Record) []dayfly.ID {
	var list []dayfly.ID
	for _, r := range records {
		list = append(list, r.ID)
	}
	return list
}

func TestRecordComesBackAsItWasStored(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		at := time.Now().In(time.FixedZone("far", 7200))
		made := create(t, s, fresh("default", named("full"), func(r *Record) {
			r.Spec.Metadata = map[string]string{"team": "ü", "empty": ""}
			r.Spec.Env = map[string]string{"A": "<&>\u2028\u0001"}
			r.ExpiresAt, r.UsedAt, r.Exit = &at, &at, &dayfly.Exit{Code: 137, Signal: 9, At: at}
			r.Durable, r.StoppedByCaller = true, true
			r.Timeline = dayfly.Timeline{{Name: "image", Took: 1.5}}
		}))[0]
		got, err := s.Get(t.Context(), made.ID)
		no(t, err)
		equal(t, got, made)
		if got.ExpiresAt.Location() != time.UTC || !got.ExpiresAt.Equal(at.Truncate(time.Microsecond)) {
			t.Errorf("expires at %v, want %v in UTC", got.ExpiresAt, at)
		}
		if got.Revision != 1 {
			t.Errorf("the first revision is %d", got.Revision)
		}
	})
}

func TestWhatWasStoredIsThereAfterReopening(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{sqlite, postgres} {
		url := newURL(t, engine)
		first, err := Open(t.Context(), Options{URL: url})
		no(t, err)
		made := create(t, first, fresh("default"))
		no(t, first.Close())
		no(t, first.Close())
		got, err := open(t, url).Get(t.Context(), made[0].ID)
		no(t, err)
		equal(t, got, made[0])
	}
}

func TestUpdateOfAChangedRecordIsRefused(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		r := create(t, s, fresh("default"))[0]
		r.State = dayfly.Stopped
		second, err := s.Update(t.Context(), Change{Record: r})
		no(t, err)
		if second.Revision != 2 {
			t.Errorf("the second revision is %d", second.Revision)
		}
		_, err = s.Update(t.Context(), Change{Record: r})
		want(t, err, dayfly.Conflict)
		got, err := s.Get(t.Context(), r.ID)
		no(t, err)
		equal(t, got, second)

		r.Revision = 0
		_, err = s.Update(t.Context(), Change{Record: r})
		no(t, err)
		r.Namespace = "other"
		_, err = s.Update(t.Context(), Change{Record: r})
		want(t, err, dayfly.Invalid)
	})
}

func TestDeletedRecordGivesBackItsNameAndQuota(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		namespace(t, s, "small", dayfly.Limits{Workspaces: 1})
		r := create(t, s, fresh("small", named("box")))[0]
		r.State = dayfly.Deleted
		_, err := s.Update(t.Context(), Change{Record: r})
		no(t, err)
		_, err = s.Get(t.Context(), r.ID)
		want(t, err, dayfly.NotFound)
		_, err = s.Update(t.Context(), Change{Record: r})
		want(t, err, dayfly.NotFound)
		create(t, s, fresh("small", named("box")))
	})
}

func TestNameIsTakenOncePerNamespace(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		namespace(t, s, "other", dayfly.Limits{})
		first := create(t, s, fresh("default", named("box")), fresh("default"), fresh("default"))[0]
		create(t, s, fresh("other", named("box")))

		_, _, err := s.Create(t.Context(), Creation{Records: []Record{fresh("default"), fresh("default", named("box"))}})
		want(t, err, dayfly.Conflict)
		_, _, err = s.Create(t.Context(), Creation{Records: []Record{first}})
		want(t, err, dayfly.Conflict)
		second := create(t, s, fresh("default", named("box2")))[0]
		second.Name = "box"
		_, err = s.Update(t.Context(), Change{Record: second})
		want(t, err, dayfly.Conflict)

		counts, err := s.Counts(t.Context())
		no(t, err)
		equal(t, counts, map[dayfly.State]int{dayfly.Running: 5}) // nothing of what was refused
	})
}

func TestRepeatedRequestMakesNothingNew(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		clock := time.Now()
		s.now = func() time.Time { return clock }
		namespace(t, s, "tight", dayfly.Limits{Workspaces: 2})
		ask := func(request string) ([]Record, bool, error) {
			return s.Create(t.Context(), Creation{
				Records: []Record{fresh("tight"), fresh("tight")},
				Events:  []dayfly.Event{{Type: dayfly.WorkspaceCreated, Namespace: "tight"}},
				Once:    Once{Key: "k", Request: request},
			})
		}
		first, before, err := ask("a")
		no(t, err)
		if before {
			t.Fatal("the first request counts as repeated")
		}
		again, before, err := ask("a") // although there is no room
		no(t, err)
		equal(t, again, first)
		if !before {
			t.Fatal("the repeated request counts as new")
		}
		_, _, err = ask("b")
		want(t, err, dayfly.Conflict)

		gone := first[0]
		gone.State = dayfly.Deleted
		_, err = s.Update(t.Context(), Change{Record: gone})
		no(t, err)
		again, _, err = ask("a")
		no(t, err)
		equal(t, again, first[1:])

		seq, err := s.LastEvent(t.Context())
		no(t, err)
		equal(t, seq, int64(1))

		clock = clock.Add(25 * time.Hour)
		_, before, err = ask("c") // a day later it is forgotten: refused by the quota alone
		want(t, err, dayfly.Exhausted)
		if before {
			t.Fatal("a key of yesterday is known")
		}
	})
}

func TestForgottenRequestIsNew(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		c := Creation{Records: []Record{fresh("default")}, Once: Once{Key: "k", Request: "a"}}
		made, _, err := s.Create(t.Context(), c)
		no(t, err)
		made[0].State = dayfly.Deleted
		_, err = s.Update(t.Context(), Change{Record: made[0]})
		no(t, err)
		no(t, s.Forget(t.Context(), "default", "k"))
		no(t, s.Forget(t.Context(), "default", "k"))
		again, before, err := s.Create(t.Context(), c)
		no(t, err)
		if before || len(again) != 1 {
			t.Fatalf("Create = %v, %v", again, before)
		}
	})
}

func TestWorkspaceIsFoundByIdNameOrPrefix(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		namespace(t, s, "other", dayfly.Limits{})
		a := fresh("default", named("Größe_%"))
		b := fresh("default", named("box"))
		a.ID, b.ID = "waaaabbbbccccddddeeee", "waaaabbbbccccddddffff"
		c := fresh("other", named("box"))
		create(t, s, a, b)
		create(t, s, c)
		prefixNamed := create(t, s, fresh("default", named(string(c.ID[:6]))))[0]
		for _, row := range []struct {
			namespace, ref string
			found          dayfly.ID
			kind           dayfly.Kind
		}{
			{"", string(a.ID), a.ID, ""},
			{"default", string(a.ID), a.ID, ""},
			{"other", string(a.ID), "", dayfly.NotFound},
			{"default", "Größe_%", a.ID, ""},
			{"", "%", "", dayfly.NotFound},
			{"", "", "", dayfly.NotFound},
			{"default", "box", b.ID, ""},
			{"other", "box", c.ID, ""},
			{"", "box", "", dayfly.Conflict},
			{"", "waaaabbbbccccddddf", b.ID, ""},
			{"", "waaaabbbbccccdddd", "", dayfly.Conflict},
			{"", "waa", "", dayfly.NotFound},
			{"other", string(c.ID[:6]), c.ID, ""},
			{"default", string(c.ID[:6]), prefixNamed.ID, ""}, // a name comes first
			{"default", "a\x00b", "", dayfly.Invalid},
			{"default", "a\xff", "", dayfly.Invalid},
		} {
			got, err := s.Find(t.Context(), row.namespace, row.ref)
			if got.ID != row.found || dayfly.KindOf(err) != row.kind {
				t.Errorf("Find(%q, %q) = %q, %v", row.namespace, row.ref, got.ID, err)
			}
		}
	})
}

// shuffled names sort differently by a language's rules than by bytes.
var shuffled = []string{"B", "a", "ä", "Z", "_", "-", "b-a", "b a", "ba", "1", "é", "e", "E"}

func someNames(n int) []string {
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("%s%d", shuffled[rand.N(len(shuffled))], i))
	}
	return names
}
