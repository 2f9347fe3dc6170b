package jail

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/dayfly/dayfly"
)

// kinds are the namespaces that a jail has of its own, by their names in
// /proc/PID/ns.
var kinds = []string{"mnt", "pid", "ipc", "uts", "net"}

// good reports whether the first process lives, apart from us, in its groups.
func (j *Jail) good() bool {
	select {
	case <-j.proc.Done():
		return false
	default:
	}
	return apart(j.proc.PID(), kinds) == nil && j.group.holds(j.proc.PID())
}

// apart compares a process's namespaces with ours.
func apart(pid int, kinds []string) error {
	for _, kind := range kinds {
		theirs, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/ns/" + kind)
		if err != nil {
			return err
		}
		ours, err := os.Readlink("/proc/self/ns/" + kind)
		if err != nil {
			return err
		}
		if theirs == ours {
			return fmt.Errorf("its %s namespace is ours", kind)
		}
	}
	return nil
}

// verify looks at the program from outside, once it runs: a step on the way
// that did less than it said must not go unseen.
func (j *Jail) verify(pid int) error {
	err := apart(pid, append([]string{"cgroup"}, kinds...))
	if err == nil {
		err = j.connected(pid)
	}
	if err == nil {
		err = j.powerless(pid)
	}
	if err == nil && !j.group.holds(pid) {
		err = fmt.Errorf("it is not in its control groups")
	}
	if err != nil && !j.who.alive() {
		return nil // it has run, and its exit says more
	}
	if err != nil {
		return &dayfly.Error{Kind: dayfly.Internal, Msg: "jail: the machine's process is not jailed as it should be and was ended", Err: err}
	}
	return nil
}

// powerless reads the process's status.
func (j *Jail) powerless(pid int) error {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return err
	}
	id := strconv.Itoa(j.uid)
	all := strings.Join([]string{id, id, id, id}, "\t")
	const none = "0000000000000000"
	want := map[string]string{
		"Uid": all, "Gid": all, "Groups": "", "NoNewPrivs": "1", "Seccomp": "2",
		"CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": none, "CapAmb": none,
	}
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(line, ":")
		if w, ok := want[key]; ok && strings.TrimSpace(value) != w {
			return fmt.Errorf("%s is %q, not %q", key, strings.TrimSpace(value), w)
		}
		delete(want, key)
	}
	if len(want) > 0 {
		return fmt.Errorf("its status lacks %d of the lines that count", len(want))
	}
	return nil
}
