package e2e

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	words "github.com/dayfly/dayfly"
)

// startOf runs a script in a new workspace and returns what --json says of its
// start.
func startOf(t *testing.T, state, script string, flags ...string) (words.Workspace, string) {
	t.Helper()
	args := append([]string{"run", "--json"}, flags...)
	r := dayfly(t, state, append(args, "base", "--", "bash", "-c", script)...)
	lines := strings.Split(strings.TrimSpace(r.stderr), "\n")
	var report struct {
		Workspace words.Workspace `json:"workspace"`
	}
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &report); err != nil || r.code != 0 {
		t.Fatalf("run = %+v, %v", r, err)
	}
	return report.Workspace, r.stdout
}

// same prints what does not depend on how a workspace came to run. Each machine
// is told the rate of the host's clock as measured by its maker.
const same = `
uname -a | cut -d' ' -f3-
id; pwd; echo $HOME $COLOUR; umask; ulimit -a
nproc; sed -n 's/MemTotal: *\(.*\)..... kB/\1/p' /proc/meminfo
ls /sys/class/net /dev; cat /sys/class/net/lo/flags; sed "s/tsc_early_khz=[0-9]*//" /proc/cmdline
df / | tail -1 | cut -d' ' -f1; stat -f -c %T /
grep -v $(hostname) /etc/hosts; cat /etc/resolv.conf 2>/dev/null
grep -v ' /proc/sys/kernel/random/boot_id ' /proc/self/mounts | awk '{print $2, $3, $4}'
ps -e -o comm= --ppid 2 -p 2 --deselect | sort
sudo dmesg >/dev/null && echo dmesg
cat /proc/sys/kernel/{ostype,pid_max,random/entropy_avail} /proc/sys/vm/overcommit_memory
`

// TestRestoredStartIsAStartLikeAnother: it is the way a workspace starts unless
// asked otherwise, it says so, and a command cannot tell.
func TestRestoredStartIsAStartLikeAnother(t *testing.T) {
	t.Parallel()
	state := newState(t)
	flags := []string{"--disk", "256M", "-e", "COLOUR=green", "-w", "/tmp"}
	cold, booted := startOf(t, state, same, append(flags, "--cold")...)
	if cold.StartKind != words.Cold || cold.StartNote == "" {
		t.Errorf("with --cold: a %s start: %q", cold.StartKind, cold.StartNote)
	}
	for range 2 {
		ws, restored := startOf(t, state, same, flags...)
		if ws.StartKind != words.Restore || ws.StartNote != "" {
			t.Errorf("a %s start: %q", ws.StartKind, ws.StartNote)
		}
		if restored != booted {
			t.Errorf("booted, it printed\n%s\nrestored\n%s", booted, restored)
		}
	}
}

// TestTwoRestoredWorkspacesShareNothing, although they began as one template.
func TestTwoRestoredWorkspacesShareNothing(t *testing.T) {
	t.Parallel()
	state := newState(t)
	all := map[words.ID]map[string]string{}
	for range 3 {
		ws, out := startOf(t, state, identity+`
echo python $(python3 -c 'import random, uuid; print(random.random(), uuid.uuid4())')
echo aslr $(sed -n '1s/-.*//p' /proc/self/maps)
echo stack $(sed -n 's/-.*\[stack\]//p' /proc/self/maps)
echo auxv $(od -An -tx1 /proc/self/auxv | tr -d ' \n' | md5sum)
`)
		if ws.StartKind != words.Restore {
			t.Errorf("a %s start: %q", ws.StartKind, ws.StartNote)
		}
		is := map[string]string{}
		for line := range strings.Lines(out) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			is[name] = value
		}
		if is["host"] != string(ws.ID) || is["etchost"] != string(ws.ID) {
			t.Errorf("%s is called %q, in /etc/hostname %q", ws.ID, is["host"], is["etchost"])
		}
		all[ws.ID] = is
	}
	different(t, all, "urandom", "uuid", "boot", "machine", "host", "etchost", "python", "aslr", "stack", "auxv")
}

// TestTemplateThatIsDamagedIsNoObstacle: the kernel boots instead, and the reply
// says why.
func TestTemplateThatIsDamagedIsNoObstacle(t *testing.T) {
	t.Parallel()
	state := newState(t)
	if ws, _ := startOf(t, state, "true"); ws.StartKind != words.Restore {
		t.Fatalf("a %s start: %q", ws.StartKind, ws.StartNote)
	}
	for _, path := range glob(t, filepath.Join(state, "templates", "*", "state")) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		// Others have the file itself.
		if err := errors.Join(os.Remove(path), os.WriteFile(path, b[:1<<10], 0o400)); err != nil {
			t.Fatal(err)
		}
	}
	ws, out := startOf(t, state, "echo alive")
	if out != "alive\n" || ws.StartKind == words.Cold && ws.StartNote == "" {
		t.Errorf("a %s start: %q; it printed %q", ws.StartKind, ws.StartNote, out)
	}
}
