package e2e

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	words "github.com/dayfly/dayfly"
)

// TestCommandsPrintWhatTheDocsSay holds the commands for pausing and copying to
// docs/cli.md, with a real workspace behind them.
func TestCommandsPrintWhatTheDocsSay(t *testing.T) {
	t.Parallel()
	state := newState(t)
	s := serve(t, state)
	id := string(s.create(t))
	const anID = `w[a-z2-7]{20}\n`
	for _, tc := range []struct {
		args           string
		code           int
		stdout, stderr string // expressions for all of it
	}{
		{"resume ID", 1, "", "dayfly: workspace ID is running: only a paused one can be resumed\n.*"},
		{"snapshot create ID --name first", 0, anID, ""},
		{"snapshot create ID --name first", 1, "", `dayfly: there is a snapshot named "first" already: .*`},
		{"snapshot ls -q --workspace ID", 0, anID, ""},
		{"snapshot ls", 0, `ID +NAME +WORKSPACE +IMAGE +AGE +MEMORY +DISK +FREES\nw\w+ +first +ID +base +\d+ seconds? +\d+\.\d MiB +\d+\.\d [KM]iB +\d+\.\d MiB\n`, ""},
		{"fork ID", 0, anID, ""},
		{"fork ID -n 2 --timings", 0, anID + anID, `2 copies, the slowest:\nfork start of w\w+ \((tcg|kvm)\)\n(?s:.*)  renew  (?s:.*)  thaw  (?s:.*)`},
		{"fork ID -n 0", 1, "", "dayfly: count is 0: .*\n.*"},
		{"rollback ID first --timings", 0, "ID\n", `snapshot start of ID \((tcg|kvm)\)\n(?s:.*)  memory  (?s:.*)`},
		{"rollback ID none", 1, "", `dayfly: there is no snapshot "?none"?.*`},
		{"pause ID", 0, "ID\n", ""},
		{"pause ID", 0, "ID\n", ""},
		{"fork ID", 1, "", "dayfly: workspace ID is paused: only a running one can be copied\n.*"},
		{"snapshot create ID", 1, "", "dayfly: workspace ID is paused: only a running one can be copied\n.*"},
		{"ls", 0, `(?s:.*)ID +base +paused +(?s:.*)`, ""},
		{"start ID", 0, "ID\n", ""},
		{"pause ID wabcdefghijklmnopqrst", 1, "ID\n", "dayfly: there is no workspace wabcdefghijklmnopqrst.*\n.*"},
		{"resume ID --timings", 0, "ID\n", `resume start of ID \((tcg|kvm)\)\n(?s:.*)  renew  (?s:.*)running after \d+ ms\n`},
		{"run --snapshot first -- echo hello", 0, "hello\n", ""},
		{"run --snapshot first --memory 1G -- true", 125, "", "dayfly: --memory and --snapshot are both given: .*\n.*"},
		{"system df", 0, `KIND +COUNT +SIZE +RECLAIMABLE\nimages .*\nkernels .*\ntemplates +\d+ +\S+ MiB +\S+ MiB\nworkspaces +4 .*\nsnapshots +1 .*\nseeds +\d+ .*\n`, ""},
		{"system prune", 0, `KIND +REMOVED +SIZE\ntemplates +1 +(?s:.*)given back: \S+ MiB\n`, ""},
		{"snapshot rm first", 0, "first\n", ""},
		{"snapshot ls -q", 0, "", ""},
		{"pause ID", 0, "ID\n", ""},
		{"stop ID", 0, "ID\n", ""},
		{"resume ID", 1, "", "dayfly: workspace ID is stopped.*: only a paused one can be resumed\n.*"},
	} {
		r := s.run(t, strings.Fields(strings.ReplaceAll(tc.args, "ID", id))...)
		if r.code != tc.code || !matches(tc.stdout, id, r.stdout) || !matches(tc.stderr, id, r.stderr) {
			t.Errorf("%s: exit %d, want %d\nstdout %q\nwant   %q\nstderr %q\nwant   %q", tc.args, r.code, tc.code, r.stdout, tc.stdout, r.stderr, tc.stderr)
		}
	}
}

// matches compares a whole text with an expression in which ID stands for an id.
func matches(pattern, id, text string) bool {
	pattern = regexp.MustCompile(`\bID\b`).ReplaceAllString(pattern, id)
	pattern = strings.Replace(pattern, id+" +NAME", "ID +NAME", 1) // a heading
	return regexp.MustCompile(`^(?:` + pattern + `)\n?$`).MatchString(text)
}

// TestExecInAPausedWorkspaceWithoutAServer: it goes on for one command, which
// finds its processes, and is paused again.
func TestExecInAPausedWorkspaceWithoutAServer(t *testing.T) {
	t.Parallel()
	state := newState(t)
	s := serve(t, state)
	id := s.create(t)
	s.sh(t, id, `echo kept > /dev/shm/file; sleep 1000000 </dev/null >/dev/null 2>&1 &`)
	s.must(t, "pause", string(id))
	s.stop(t)
	for range 2 {
		if r := dayfly(t, state, "exec", string(id), "--", "sh", "-c", "cat /dev/shm/file; pgrep -x sleep | wc -l"); r.code != 0 || r.stdout != "kept\n1\n" {
			t.Fatalf("exec = %+v", r)
		}
		var list []words.Workspace
		if r := dayfly(t, state, "ls", "--json"); json.Unmarshal([]byte(r.stdout), &list) != nil || len(list) != 1 || list[0].State != words.Paused {
			t.Fatalf("ls = %+v", r)
		}
	}
	if r := dayfly(t, state, "rm", string(id)); r.code != 0 {
		t.Fatalf("rm = %+v", r)
	}
}

// TestClaimedWorkspacesShareNothing: a server's starts take machines that were
// held ready, and each is as much its own as one that booted.
func TestClaimedWorkspacesShareNothing(t *testing.T) {
	t.Parallel()
	state := newState(t)
	s := serve(t, state, "--standby", "1")
	all := map[words.ID]map[string]string{}
	for from := 0; len(all) < 2; {
		if !s.logged(from, has("standby machine ready")) {
			t.Fatal(s.log())
		}
		from = s.mark()
		ws, err := s.Workspaces.Create(t.Context(), words.Spec{Image: "base"})
		if err != nil || ws.StartKind != words.Claim {
			t.Fatalf("it is said to be %+v, %v", ws, err)
		}
		is := s.about(t, ws.ID, identity)
		if is["host"] != string(ws.ID) || is["etchost"] != string(ws.ID) {
			t.Errorf("%s is called %q, in /etc/hostname %q", ws.ID, is["host"], is["etchost"])
		}
		s.clockIsRight(t, ws.ID)
		s.must(t, "pause", string(ws.ID))
		s.must(t, "resume", string(ws.ID))
		all[ws.ID] = is
	}
	different(t, all, "urandom", "uuid", "boot", "machine", "host")
}
