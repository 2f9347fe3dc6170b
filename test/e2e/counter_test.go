package e2e

import (
	"fmt"
	"strings"
	"testing"

	words "github.com/dayfly/dayfly" // dayfly is a function here
)

// counter counts in memory, in a file without a name and in one with a name. It
// ends if the first two ever differ.
const counter = `
import os, time
hidden = open("/home/user/hidden", "w+")
os.unlink("/home/user/hidden")
log = open("/home/user/count", "a")
n = 0
while True:
    hidden.seek(0)
    if int(hidden.read() or 0) != n:
        os._exit(1)
    n += 1
    hidden.seek(0)
    hidden.write(str(n))
    hidden.flush()
    log.write("%d %d\n" % (n, os.getpid()))
    log.flush()
    time.sleep(0.1)
`

// count starts the counter in a workspace and returns how far it is.
func (s *server) count(t *testing.T, id words.ID) tally {
	t.Helper()
	s.sh(t, id, `python3 -c "$1" </dev/null >/dev/null 2>&1 &`, counter)
	return s.goesOn(t, id, tally{})
}

// tally is how far a counter is.
type tally struct {
	n, pid int
	files  string // it has open
}

// tally reads what the counter wrote from the disk, rather than from memory. The
// numbers must have neither gap nor repetition: else memory and disk are not of
// one moment.
func (s *server) tally(t *testing.T, id words.ID, above int) (c tally) {
	t.Helper()
	out := s.sh(t, id, `until [ $(wc -l < /home/user/count) -gt $1 ]; do sleep 0.1; done 2>/dev/null
sync; echo 3 | sudo tee /proc/sys/vm/drop_caches >/dev/null
ls -l /proc/$(sed -n '1s/.* //p' /home/user/count)/fd | sed -n 's/.* \([0-9]* ->\)/\1/p'
echo; cat /home/user/count`, fmt.Sprint(above))
	files, out, _ := strings.Cut(out, "\n\n")
	c.files = files
	for line := range strings.Lines(out) {
		last := c
		if _, err := fmt.Sscan(line, &c.n, &c.pid); err != nil || c.n != last.n+1 || last.n > 0 && c.pid != last.pid {
			t.Fatalf("in %s: after %d of process %d comes %q", id, last.n, last.pid, line)
		}
	}
	return c
}

// goesOn waits until the counter has gone on from where it was: the same
// process with the same files. It returns how far it is then.
func (s *server) goesOn(t *testing.T, id words.ID, from tally) tally {
	t.Helper()
	c := s.tally(t, id, from.n)
	if from.pid != 0 && (c.pid != from.pid || c.files != from.files) {
		t.Fatalf("in %s: process %d with the files\n%sis %d with\n%s", id, from.pid, from.files, c.pid, c.files)
	}
	if !strings.Contains(c.files, "/home/user/hidden (deleted)") {
		t.Fatalf("in %s: process %d has the files\n%s", id, c.pid, c.files)
	}
	return c
}

func pidText(c tally) string { return fmt.Sprint(c.pid) }
