package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	words "github.com/dayfly/dayfly"
)

// identity prints what must be every workspace's own, one a line.
const identity = `
echo urandom $(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
echo uuid $(cat /proc/sys/kernel/random/uuid)
echo boot $(cat /proc/sys/kernel/random/boot_id)
echo machine $(cat /etc/machine-id)
echo host $(hostname)
echo etchost $(cat /etc/hostname)
`

// prng prints numbers of a generator in user space, which a copy inherits with
// the rest of memory, and seeds it anew when the workspace says it is a copy.
const prng = `
import os, random, time, uuid
random.seed(42)
seen = None
while True:
    try:
        now = open("/run/dayfly/generation").read()
    except FileNotFoundError:
        now = ""
    if now != seen:
        if seen is not None:
            random.seed()
        seen = now
        with open("/home/user/.prng", "w") as f:
            f.write("generation %s\nrandom %s\nuuid4 %s\n" % (now.strip(), random.random(), uuid.uuid4()))
        os.rename("/home/user/.prng", "/home/user/prng")
    time.sleep(0.2)
`

// hostKey is a hook as a user would write it for the host key of a service.
const hostKey = `#!/bin/sh
set -e
umask 077
if command -v ssh-keygen >/dev/null; then
	rm -f /etc/hostkey /etc/hostkey.pub
	ssh-keygen -q -t ed25519 -N '' -f /etc/hostkey
else
	head -c 32 /dev/urandom | base64 > /etc/hostkey
fi
echo "$DAYFLY_RENEW $DAYFLY_GENERATION" > /etc/renewed
`

// about returns what a script printed: lines of a name and a value.
func (s *server) about(t *testing.T, id words.ID, script string) map[string]string {
	t.Helper()
	is := map[string]string{}
	for line := range strings.Lines(s.sh(t, id, script)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		is[name] = value
	}
	return is
}

// different sees that no two workspaces have one of the named things in common.
func different(t *testing.T, all map[words.ID]map[string]string, names ...string) {
	t.Helper()
	for _, name := range names {
		whose := map[string]words.ID{}
		for id, is := range all {
			v := is[name]
			if other, ok := whose[v]; ok || v == "" {
				t.Errorf("%s and %s have the same %s: %q", id, other, name, v)
			}
			whose[v] = id
		}
	}
}

// TestForksAreWorkspacesOfTheirOwn: each goes on where the original was, and
// none has anything that identifies or surprises in common with another.
func TestForksAreWorkspacesOfTheirOwn(t *testing.T) { //nolint:paralleltest // as many machines as it starts are enough for one host
	state := newState(t)
	s := serve(t, state)
	parent := s.create(t)
	s.sh(t, parent, `sudo mkdir -p /etc/dayfly/renew.d
printf %s "$1" | sudo tee /etc/dayfly/renew.d/50-hostkey >/dev/null
sudo chmod 755 /etc/dayfly/renew.d/50-hostkey
sudo /etc/dayfly/renew.d/50-hostkey
python3 -c "$2" </dev/null >/dev/null 2>&1 &
until [ -e /home/user/prng ]; do sleep 0.1; done`, hostKey, prng)
	c := s.count(t, parent)
	before := s.about(t, parent, identity)

	const n = 10
	copies := s.must(t, "fork", string(parent), "-n", fmt.Sprint(n))
	if len(copies) != n {
		t.Fatalf("fork printed %q", copies)
	}
	const after = identity + `
until grep -qs "generation $(cat /run/dayfly/generation)" /home/user/prng; do sleep 0.1; done
cat /home/user/prng
echo hostkey $(sudo cat /etc/hostkey | tr -d '\n')
echo renewed $(sudo cat /etc/renewed)
echo current $(cat /run/dayfly/generation)
`
	all := map[words.ID]map[string]string{}
	for _, child := range copies {
		id := words.ID(child)
		s.goesOn(t, id, c)
		s.clockIsRight(t, id)
		is := s.about(t, id, after)
		all[id] = is
		if is["renewed"] != "fork "+is["current"] {
			t.Errorf("in %s the hook was told %q, and the generation is %q", id, is["renewed"], is["current"])
		}
		if is["host"] != is["etchost"] || strings.ReplaceAll(is["boot"], "-", "") == is["machine"] {
			t.Errorf("%s is %v", id, is)
		}
		ws, err := s.Workspaces.Get(t.Context(), id)
		if err != nil || ws.StartKind != words.Forked || ws.Parent != string(parent) {
			t.Errorf("it is said to be %+v, %v", ws, err)
		}
	}
	different(t, all, "generation", "random", "uuid4")
	s.goesOn(t, parent, c)
	s.clockIsRight(t, parent)
	all[parent] = s.about(t, parent, identity+`echo hostkey $(sudo cat /etc/hostkey | tr -d '\n'); cat /home/user/prng`)
	different(t, all, "urandom", "uuid", "boot", "machine", "host", "hostkey", "random", "uuid4")
	for _, name := range []string{"boot", "machine", "host"} {
		if all[parent][name] != before[name] {
			t.Errorf("forking changed the original's %s from %s to %s", name, before[name], all[parent][name])
		}
	}
}

// clockTolerance is how far a workspace's wall clock may be from the host's.
const clockTolerance = 100 * time.Millisecond

// clockIsRight compares a workspace's clock with the host's before and after.
func (s *server) clockIsRight(t *testing.T, id words.ID) {
	t.Helper()
	before := time.Now().Add(-clockTolerance)
	out := strings.TrimSpace(s.sh(t, id, "date -u +%FT%T.%NZ"))
	after := time.Now().Add(clockTolerance)
	at, err := time.Parse(time.RFC3339Nano, out)
	if err != nil || at.Before(before) || at.After(after) {
		t.Errorf("the clock of %s is %s to %s ahead of the host's, and %s are allowed: %v",
			id, at.Sub(after)+clockTolerance, at.Sub(before)-clockTolerance, clockTolerance, err)
	}
}

// TestResumedWorkspaceKeepsItsIdentityButNotItsEntropy: it takes the place of
// what it was, and its clock is right although it stood still.
func TestResumedWorkspaceKeepsItsIdentityButNotItsEntropy(t *testing.T) {
	t.Parallel()
	state := newState(t)
	s := serve(t, state)
	id := s.create(t)
	before := s.about(t, id, identity)
	s.must(t, "pause", string(id))
	s.must(t, "resume", string(id))
	after := s.about(t, id, identity)
	for _, name := range []string{"boot", "machine", "host", "etchost"} {
		if before[name] != after[name] || before[name] == "" {
			t.Errorf("its %s was %q and is %q", name, before[name], after[name])
		}
	}
	for _, name := range []string{"urandom", "uuid"} {
		if before[name] == after[name] {
			t.Errorf("its %s is %q again", name, before[name])
		}
	}
	s.clockIsRight(t, id)
}

// TestTwoResumesOfOneSnapshotDrawDifferentNumbers: two copies of the same memory
// with the same pool of entropy do not go on with the same random numbers.
func TestTwoResumesOfOneSnapshotDrawDifferentNumbers(t *testing.T) {
	t.Parallel()
	state := newState(t)
	s := serve(t, state)
	id := s.create(t)
	const draws = `
import os, time
while not os.path.exists("/home/user/go"):
    time.sleep(0.2)
open("/home/user/drawn", "w").write("urandom " + os.urandom(16).hex())
`
	s.sh(t, id, `python3 -c "$1" </dev/null >/dev/null 2>&1 &`, draws)
	s.must(t, "snapshot", "create", string(id), "--name", "drawing")
	all := map[words.ID]map[string]string{}
	for range 3 {
		s.must(t, "rollback", string(id), "drawing")
		all[words.ID(fmt.Sprint(len(all)))] = s.about(t, id, `touch /home/user/go; until [ -s /home/user/drawn ]; do sleep 0.1; done; cat /home/user/drawn`)
	}
	different(t, all, "urandom")
}
