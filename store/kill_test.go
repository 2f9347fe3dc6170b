package store

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/dayfly/dayfly"
)

// childURL makes this binary the process that is killed.
const childURL = "DAYFLY_STORE_TEST_LOAD"

// loadUntilKilled changes a database without end and says what is done, after
// it is.
func loadUntilKilled(url string) int {
	ctx := context.Background()
	s, err := Open(ctx, Options{URL: url})
	if err != nil {
		fmt.Println("failed", err)
		return 1
	}
	for worker := range 4 {
		go func() {
			for i := 0; ; i++ {
				if err := oneLife(ctx, s, i); err != nil {
					fmt.Println("failed", worker, err)
					os.Exit(1)
				}
			}
		}()
	}
	select {}
}

// oneLife makes a workspace, and stops or deletes two of three.
func oneLife(ctx context.Context, s *Store, i int) error {
	r := fresh(dayfly.DefaultNamespace)
	event := func(t dayfly.EventType) []dayfly.Event {
		return []dayfly.Event{{Type: t, Namespace: r.Namespace, Workspace: r.ID}}
	}
	if _, _, err := s.Create(ctx, Creation{Records: []Record{r}, Events: event(dayfly.WorkspaceCreated)}); err != nil {
		return err
	}
	fmt.Println(r.ID, r.State)
	for _, next := range []dayfly.State{dayfly.Stopped, dayfly.Deleted}[:i%3] {
		r.State = next
		fmt.Println(r.ID, "to", next)
		if _, err := s.Update(ctx, Change{Record: r, Events: event(dayfly.WorkspaceStopped)}); err != nil {
			return err
		}
		fmt.Println(r.ID, next)
	}
	return nil
}

func TestWhatWasAcknowledgedSurvivesKill(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{sqlite, postgres} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			url := newURL(t, engine)
			for round := range 3 {
				lives := killed(t, url, 40+30*round)
				checkLives(t, url, lives)
			}
		})
	}
}

// killed runs the load, kills it after so many lines, and returns what each
// workspace was said to be, with what it was about to become.
func killed(t *testing.T, url string, lines int) map[string][]string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childURL+"="+url)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	no(t, err)
	no(t, cmd.Start())
	lives := map[string][]string{}
	said := bufio.NewScanner(out)
	for n := 0; said.Scan(); n++ {
		id, state, ok := strings.Cut(said.Text(), " ")
		if !ok || id == "failed" {
			t.Error(said.Text())
		}
		next, isNext := strings.CutPrefix(state, "to ")
		if isNext {
			lives[id] = append(lives[id][:1:1], next)
		} else {
			lives[id] = []string{state}
		}
		if n == lines {
			no(t, cmd.Process.Kill())
		}
	}
	_ = cmd.Wait()
	return lives
}

func checkLives(t *testing.T, url string, lives map[string][]string) {
	t.Helper()
	s, err := Open(t.Context(), Options{URL: url})
	no(t, err)
	defer s.Close()
	for id, may := range lives {
		state := dayfly.Deleted
		r, err := s.Get(t.Context(), dayfly.ID(id))
		if err == nil {
			state = r.State
		}
		ok := false
		for _, m := range may {
			ok = ok || m == string(state)
		}
		if !ok {
			t.Errorf("workspace %s is %s after the kill; acknowledged was %s", id, state, may)
		}
		events, err := s.Events(t.Context(), dayfly.EventQuery{Workspace: dayfly.ID(id)})
		no(t, err)
		if want := map[dayfly.State]int{dayfly.Running: 1, dayfly.Stopped: 2, dayfly.Deleted: 3}[state]; len(events) != want {
			t.Errorf("workspace %s is %s with %d events, want %d", id, state, len(events), want)
		}
	}
	// Nothing counts that is not there.
	quota, err := s.Quota(t.Context(), dayfly.DefaultNamespace)
	no(t, err)
	counts, err := s.Counts(t.Context())
	no(t, err)
	equal(t, quota.Used.Running, counts[dayfly.Running])
}
