package store

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dayfly/dayfly"
)

// walk lists all pages and calls between after each but the last.
func walk(t testing.TB, s *Store, q dayfly.Query, between func()) []Record {
	t.Helper()
	var found []Record
	for {
		page, err := s.List(t.Context(), q)
		no(t, err)
		found = append(found, page.Records...)
		if q.Cursor = page.Next; q.Cursor == "" {
			return found
		}
		if between != nil {
			between()
		}
	}
}

func TestListIsSortedAndWhole(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		base := time.Now()
		var made []Record
		for i, name := range someNames(57) {
			r := fresh("default", named(name))
			r.CreatedAt = base.Add(time.Duration(i/5) * time.Microsecond) // several at one moment
			if i%7 == 0 {
				r.Name = ""
			}
			made = append(made, create(t, s, r)...)
		}
		byAge := func(a, b Record) int {
			if c := a.CreatedAt.Compare(b.CreatedAt); c != 0 {
				return c
			}
			return strings.Compare(string(a.ID), string(b.ID))
		}
		for order, compare := range map[dayfly.Order]func(a, b Record) int{
			dayfly.OldestFirst: byAge,
			dayfly.NewestFirst: func(a, b Record) int { return byAge(b, a) },
			dayfly.ByName:      func(a, b Record) int { return strings.Compare(a.Name+"\x00"+string(a.ID), b.Name+"\x00"+string(b.ID)) },
		} {
			slices.SortFunc(made, compare)
			for _, limit := range []int{1, 4, 57, 1000} {
				equal(t, ids(walk(t, s, dayfly.Query{Order: order, Limit: limit}, nil)), ids(made))
			}
		}
		var each []Record
		no(t, s.Each(t.Context(), func(r Record) error {
			each = append(each, r)
			_, err := s.Get(t.Context(), r.ID) // f may use the store
			return err
		}))
		slices.SortFunc(made, byAge)
		equal(t, each, made)
	})
}

func TestFiltersSelect(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		namespace(t, s, "other", dayfly.Limits{})
		meta := func(pairs ...string) func(*Record) {
			return func(r *Record) {
				r.Spec.Metadata = map[string]string{}
				for i := 0; i < len(pairs); i += 2 {
					r.Spec.Metadata[pairs[i]] = pairs[i+1]
				}
			}
		}
		a := create(t, s, fresh("default", named("a"), meta("team", "x", "tier", "1")))[0]
		b := create(t, s, fresh("default", named("b"), meta("team", "x"), inState(dayfly.Stopped)))[0]
		c := create(t, s, fresh("other", named("a"), meta("team", "y"), func(r *Record) { r.Spec.Image = "alpine" }))[0]
		for _, row := range []struct {
			q     dayfly.Query
			found []Record
		}{
			{dayfly.Query{}, []Record{a, b, c}},
			{dayfly.Query{Namespace: "default"}, []Record{a, b}},
			{dayfly.Query{Name: "a"}, []Record{a, c}},
			{dayfly.Query{Image: "alpine"}, []Record{c}},
			{dayfly.Query{States: []dayfly.State{dayfly.Stopped}}, []Record{b}},
			{dayfly.Query{States: []dayfly.State{dayfly.Stopped, dayfly.Running}, Namespace: "default"}, []Record{a, b}},
			{dayfly.Query{Metadata: map[string]string{"team": "x"}}, []Record{a, b}},
			{dayfly.Query{Metadata: map[string]string{"team": "x", "tier": "1"}}, []Record{a}},
			{dayfly.Query{Metadata: map[string]string{"team": "x", "tier": "2"}}, nil},
			{dayfly.Query{Metadata: map[string]string{"x": "team"}}, nil},
			{dayfly.Query{Namespace: "' OR 1=1 --"}, nil},
		} {
			row.q.Order = dayfly.OldestFirst
			equal(t, ids(walk(t, s, row.q, nil)), ids(row.found))
		}
		b.Spec.Metadata = map[string]string{"new": "z"}
		_, err := s.Update(t.Context(), Change{Record: b})
		no(t, err)
		equal(t, ids(walk(t, s, dayfly.Query{Metadata: map[string]string{"new": "z"}}, nil)), []dayfly.ID{b.ID})
		equal(t, ids(walk(t, s, dayfly.Query{Metadata: map[string]string{"team": "x"}}, nil)), []dayfly.ID{a.ID})

		_, err = s.List(t.Context(), dayfly.Query{Order: "size"})
		want(t, err, dayfly.Invalid)
		_, err = s.List(t.Context(), dayfly.Query{Name: "\xff"})
		want(t, err, dayfly.Invalid)
	})
}

// TestPagesStayWholeWhileWorkspacesComeAndGo holds the promise of dayfly.Order.
func TestPagesStayWholeWhileWorkspacesComeAndGo(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		for _, order := range []dayfly.Order{dayfly.NewestFirst, dayfly.OldestFirst, dayfly.ByName} {
			var stay, gone []Record
			for i := range 60 {
				r := create(t, s, fresh("default", named(fmt.Sprintf("%s-%d-%d", order, rand.N(1000), i))))[0]
				if i%3 == 0 {
					gone = append(gone, r)
				} else {
					stay = append(stay, r)
				}
			}
			stop, churned := make(chan struct{}), make(chan error, 1)

			go func() { churned <- churn(t, s, order, gone, stop) }()
			found := walk(t, s, dayfly.Query{Order: order, Limit: 3}, nil)
			close(stop)
			no(t, <-churned)
			seen := map[dayfly.ID]int{}
			for _, r := range found {
				seen[r.ID]++
			}
			for id, n := range seen {
				if n > 1 {
					t.Errorf("order %s: %s is listed %d times", order, id, n)
				}
			}
			for _, r := range stay {
				if seen[r.ID] != 1 {
					t.Errorf("order %s: %s was there all the time and is listed %d times", order, r.ID, seen[r.ID])
				}
			}
		}
	})
}

// churn deletes workspaces, makes others, and changes states.
func churn(t *testing.T, s *Store, order dayfly.Order, gone []Record, stop chan struct{}) error {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return nil
		default:
		}
		if _, _, err := s.Create(t.Context(), Creation{Records: []Record{fresh("default", named(fmt.Sprintf("%s-%d-new%d", order, rand.N(1000), i)))}}); err != nil {
			return err
		}
		if i < len(gone) {
			gone[i].State = dayfly.Deleted
			if _, err := s.Update(t.Context(), Change{Record: gone[i]}); err != nil {
				return err
			}
		}
	}
}

// TestListByNameGoesOnByTheNamesOfItsBeginning: between its pages anything is
// renamed, made and deleted. What is there all the time is listed once, in the
// order that it had.
func TestListByNameGoesOnByTheNamesOfItsBeginning(t *testing.T) {
	t.Parallel()
	for engine, runs := range map[string]int{sqlite: 100, postgres: 15} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			s := open(t, newURL(t, engine))
			run := 0
			rapid.Check(t, func(rt *rapid.T) {
				if run++; run > runs {
					return
				}
				ns := fmt.Sprintf("run%d", run)
				namespace(t, s, ns, dayfly.Limits{})
				listedByName(t, rt, s, ns)
			})
		})
	}
}

func listedByName(t *testing.T, rt *rapid.T, s *Store, ns string) {
	names := 0
	name := func() string { // close to each other, so that order changes; some have none
		names++
		return rapid.SampledFrom([]string{"", fmt.Sprintf("%c%d", rapid.RuneFrom([]rune("abcxyz")).Draw(rt, "letter"), names)}).Draw(rt, "name")
	}
	there := map[dayfly.ID]Record{}
	make := func(change func(*Record)) {
		r := create(t, s, fresh(ns, change))[0]
		there[r.ID] = r
	}
	for range rapid.IntRange(0, 12).Draw(rt, "workspaces") {
		make(named(name()))
	}
	var want []Record
	for _, r := range there {
		want = append(want, r)
	}
	slices.SortFunc(want, func(a, b Record) int { return strings.Compare(a.Name+"\x00"+string(a.ID), b.Name+"\x00"+string(b.ID)) })
	begun := maps.Clone(there)

	found := walk(t, s, dayfly.Query{Namespace: ns, Order: dayfly.ByName, Limit: rapid.IntRange(1, 5).Draw(rt, "page")}, func() {
		for range rapid.IntRange(0, 6).Draw(rt, "changes") {
			ids := slices.Sorted(maps.Keys(there))
			what := rapid.IntRange(0, 5).Draw(rt, "change")
			if len(ids) == 0 || what == 0 {
				make(named(name()))
				continue
			}
			r := there[rapid.SampledFrom(ids).Draw(rt, "workspace")]
			if what == 1 {
				r.State = dayfly.Deleted
				delete(there, r.ID)
			} else {
				r.Name = name()
				there[r.ID] = r
			}
			r.Revision = 0
			_, err := s.Update(t.Context(), Change{Record: r})
			no(t, err)
		}
	})
	seen := map[dayfly.ID]int{}
	for _, r := range found {
		if seen[r.ID]++; seen[r.ID] > 1 {
			rt.Errorf("%s is listed twice", r.ID)
		}
	}
	stayed := func(r Record) bool { _, is := there[r.ID]; _, was := begun[r.ID]; return is && was }
	lasting := func(list []Record) []dayfly.ID {
		return ids(slices.DeleteFunc(slices.Clone(list), func(r Record) bool { return !stayed(r) }))
	}
	if got, want := lasting(found), lasting(want); !slices.Equal(got, want) {
		rt.Errorf("listed %v, not %v", got, want)
	}
}

// TestTenThousandAreListedOnceWhileTheyChange: in each order, in pages, beside
// others that rename, make and delete.
func TestTenThousandAreListedOnceWhileTheyChange(t *testing.T) {
	t.Parallel()
	s := full(t, sqlite, 10_000)
	stay := map[dayfly.ID]bool{}
	var gone, renamed []Record
	for i, r := range walk(t, s, dayfly.Query{Order: dayfly.OldestFirst, Limit: dayfly.MaxPage}, nil) {
		if i%10 == 0 {
			gone = append(gone, r)
			continue
		}
		stay[r.ID] = true
		if i%10 == 1 {
			renamed = append(renamed, r)
		}
	}
	for i, order := range []dayfly.Order{dayfly.NewestFirst, dayfly.OldestFirst, dayfly.ByName} {
		stop, churned := make(chan struct{}), make(chan error, 2)
		go func() { churned <- churn(t, s, order, gone[i*300:(i+1)*300], stop) }()
		go func() { churned <- shuffleNames(t, s, renamed, stop) }()
		seen := map[dayfly.ID]int{}
		for _, r := range walk(t, s, dayfly.Query{Order: order, Limit: 200}, nil) {
			seen[r.ID]++
		}
		close(stop)
		no(t, errors.Join(<-churned, <-churned))
		for id, n := range seen {
			if n > 1 {
				t.Errorf("order %s: %s is listed %d times", order, id, n)
			}
		}
		for id := range stay {
			if seen[id] != 1 {
				t.Errorf("order %s: %s was there all the time and is listed %d times", order, id, seen[id])
			}
		}
	}
}

// shuffleNames gives workspaces names anywhere in the order.
func shuffleNames(t *testing.T, s *Store, list []Record, stop chan struct{}) error {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return nil
		default:
		}
		r := list[i%len(list)]
		r.Name, r.Revision = fmt.Sprintf("agent-%06d-%d", rand.N(10_000), i), 0
		if _, err := s.Update(t.Context(), Change{Record: r}); err != nil {
			return err
		}
	}
}

func TestTamperedCursorIsRefused(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		for range 3 {
			create(t, s, fresh("default"))
		}
		page, err := s.List(t.Context(), dayfly.Query{Limit: 1})
		no(t, err)
		good := page.Next
		for i := range good {
			bad := []byte(good)
			bad[i] ^= 1
			_, err := s.List(t.Context(), dayfly.Query{Cursor: string(bad)})
			want(t, err, dayfly.Invalid)
		}
		for _, bad := range []string{"x", "====", good + "A", good[1:], strings.Repeat("A", 1<<16)} {
			_, err := s.List(t.Context(), dayfly.Query{Cursor: bad})
			want(t, err, dayfly.Invalid)
		}
		_, err = s.List(t.Context(), dayfly.Query{Cursor: good, Order: dayfly.ByName})
		want(t, err, dayfly.Invalid)
	})
}

func FuzzCursor(f *testing.F) {
	for _, c := range []cursor{{}, {Order: dayfly.ByName, Name: "ü\"<", ID: "w"}, {Order: dayfly.NewestFirst, Created: -1, ID: "w"}} {
		text, err := c.encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for order := range orders {
			c, err := decodeCursor(text, order)
			if err != nil {
				want(t, err, dayfly.Invalid)
				continue
			}
			if again, err := c.encode(); err != nil || again != text {
				t.Fatalf("%q is read as %+v, which is %q, %v", text, c, again, err)
			}
		}
	})
}

// full is a database with many workspaces of usual size.
func full(b testing.TB, engine string, n int) *Store {
	b.Helper()
	s := open(b, newURL(b, engine))
	for i := range n / 100 {
		var records []Record
		for j := range 100 {
			records = append(records, usual(i*100+j))
		}
		create(b, s, records...)
	}
	return s
}

func usual(i int) Record {
	return fresh("default", named(fmt.Sprintf("agent-%06d", i)), func(r *Record) {
		r.Spec.Env = map[string]string{"LANG": "C.UTF-8", "TASK": fmt.Sprint(i), "TOKEN": strings.Repeat("x", 64)}
		r.Spec.Metadata = map[string]string{"team": fmt.Sprint(i % 10), "task": fmt.Sprint(i)}
		r.Image = dayfly.Image{Name: "base"}
		for _, stage := range []string{"admit", "image", "kernel", "template", "disk", "vmm", "guest", "init", "ready"} {
			r.Timeline = append(r.Timeline, dayfly.Stage{Name: stage, At: 1.25, Took: 12.5})
		}
	})
}

func BenchmarkList(b *testing.B) {
	for _, engine := range []string{sqlite, postgres} {
		b.Run(engine, func(b *testing.B) {
			s := full(b, engine, 10_000)
			for name, q := range map[string]dayfly.Query{
				"newest":   {Namespace: "default"},
				"name":     {Order: dayfly.ByName},
				"metadata": {Metadata: map[string]string{"team": "3"}},
				"state":    {States: []dayfly.State{dayfly.Running}},
			} {
				b.Run(name, func(b *testing.B) {
					pages := 0
					for b.Loop() {
						page, err := s.List(b.Context(), q)
						no(b, err)
						pages++
						if q.Cursor = page.Next; len(page.Records) != 100 {
							b.Fatalf("a page has %d records", len(page.Records))
						}
					}
				})
			}
		})
	}
}

func BenchmarkCreate(b *testing.B) {
	for _, engine := range []string{sqlite, postgres} {
		for name, limits := range map[string]dayfly.Limits{"unlimited": {}, "limited": {Workspaces: 1 << 30, Running: 1 << 30, CPUs: 1 << 30}} {
			b.Run(engine+"/"+name, func(b *testing.B) {
				s := open(b, newURL(b, engine))
				namespace(b, s, "team", limits)
				i := 0
				for b.Loop() {
					r := usual(i)
					r.Namespace = "team"
					_, _, err := s.Create(b.Context(), Creation{
						Records: []Record{r}, Events: []dayfly.Event{{Type: dayfly.WorkspaceCreated, Namespace: "team", Workspace: r.ID}},
						Once: Once{Key: fmt.Sprint(i)},
					})
					no(b, err)
					i++
				}
			})
		}
	}
}

func BenchmarkQuota(b *testing.B) {
	for _, engine := range []string{sqlite, postgres} {
		b.Run(engine, func(b *testing.B) {
			s := full(b, engine, 10_000)
			for b.Loop() {
				_, err := s.Quota(b.Context(), "default")
				no(b, err)
			}
		})
	}
}
