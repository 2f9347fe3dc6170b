package jail

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/test/needs"
)

func TestHierarchiesOfEveryKindAreFound(t *testing.T) {
	t.Parallel()
	const (
		v2 = "35 24 0:30 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
		v1 = "30 29 0:26 / /cg/cpu rw - cgroup cgroup rw,cpu,cpuacct\n" +
			"31 29 0:27 /docker/x /cg/memory rw - cgroup cgroup rw,memory\n" +
			"32 29 0:28 / /cg/blkio rw - cgroup cgroup rw,blkio\n"
		own = "9:name=systemd:/\n4:memory:/docker/x/inner\n2:cpu,cpuacct:/a\n0::/\n"
	)
	below2 := place{dir: "/sys/fs/cgroup", v2: true}
	for _, c := range []struct {
		name, mounts string
		want         map[string]place
	}{
		{"none", "24 1 8:1 / / rw - ext4 /dev/sda1 rw\n", map[string]place{}},
		{"version 2", v2, map[string]place{"cpu": below2, "io": below2, "memory": below2, "pids": below2}},
		{"version 1", v1, map[string]place{"cpu": {dir: "/cg/cpu/a"}, "memory": {dir: "/cg/memory/inner"}, "io": {dir: "/cg/blkio"}}},
		{"both", v2 + v1, map[string]place{"cpu": {dir: "/cg/cpu/a"}, "memory": {dir: "/cg/memory/inner"}, "io": {dir: "/cg/blkio"}, "pids": below2}},
		{"both, the other way round", v1 + v2, map[string]place{"cpu": {dir: "/cg/cpu/a"}, "memory": {dir: "/cg/memory/inner"}, "io": {dir: "/cg/blkio"}, "pids": below2}},
	} {
		if diff := cmp.Diff(c.want, hierarchies(c.mounts, own), cmp.AllowUnexported(place{})); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

// TestLimitsOfVersion2 holds what would be written: this needs no host that has
// it.
func TestLimitsOfVersion2(t *testing.T) {
	t.Parallel()
	tree := &tree{places: map[string]place{}}
	dir := t.TempDir()
	for _, c := range controllers {
		tree.places[c] = place{dir: dir, v2: true}
	}
	g := tree.group(5)
	if err := os.Mkdir(filepath.Join(dir, "5"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := g.limit(Limits{CPUs: 0.25, Memory: 1 << 30, Processes: 7}); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"cpu.max": "5000 20000", "memory.max": "1073741824", "memory.swap.max": "0", "memory.oom.group": "1", "pids.max": "7",
	} {
		if b, err := os.ReadFile(filepath.Join(dir, "5", file)); err != nil || string(b) != want {
			t.Errorf("%s holds %q: %v", file, b, err)
		}
	}
	got := IO{ReadBytes: 1, WriteOps: 2}.settings("8:0", true)
	if want := []setting{{"io", "io.max", "8:0 rbps=1 wiops=2", false}}; !slices.Equal(got, want) {
		t.Errorf("io limits %v, not %v", got, want)
	}
	if q := cpuQuota(0.001); q != leastQuota {
		t.Errorf("a thousandth of a CPU is a quota of %d", q)
	}
}

func TestGroupNamesStayInTheirPlace(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", ".", "..", "a/b", "/a", "../a", ".hidden"} {
		if _, err := plant(name); dayfly.KindOf(err) != dayfly.Invalid {
			t.Errorf("plant(%q) = %v", name, err)
		}
	}
}

// TestLibrariesAreThoseOfTheLoader compares with what ldd, that is ld.so, finds.
func TestLibrariesAreThoseOfTheLoader(t *testing.T) {
	t.Parallel()
	path := needs.QEMU(t)
	found, err := resolve(path)
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	for _, b := range found.binds {
		have = append(have, filepath.Base(b.To))
	}
	out, err := exec.CommandContext(t.Context(), "ldd", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^\s(\S+) .*\(0x`).FindAllSubmatch(out, -1) {
		name := filepath.Base(string(m[1]))
		if !strings.HasPrefix(name, "linux-vdso") && !slices.Contains(have, name) {
			t.Errorf("%s is not among %v", name, have)
		}
	}
	if again, err := new(programs).find(path); err != nil || !cmp.Equal(again.binds, found.binds, cmp.AllowUnexported(bind{})) {
		t.Errorf("another look finds something else: %v", err)
	}
}

func TestProgramThatChangedIsLookedAtAgain(t *testing.T) {
	t.Parallel()
	var p programs
	path := filepath.Join(tempDir(t), "program")
	if err := copySelf(path); err != nil {
		t.Fatal(err)
	}
	if _, err := p.find(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".new", []byte("no program"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	if _, err := p.find(path); dayfly.KindOf(err) != dayfly.Invalid {
		t.Errorf("it passes for what it was: %v", err)
	}
}

// FuzzOccupant reads slots as a crash, or another version, may have left them.
func FuzzOccupant(f *testing.F) {
	f.Add([]byte("123 456 runs\n"))
	f.Add([]byte("-1 456 runs\n"))
	f.Add(bytes.Repeat([]byte{0}, slotSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		if o := parseOccupant(b); o.pid < 0 || o.pid == 0 && o != (occupant{}) {
			t.Errorf("%q is %v", b, o)
		}
	})
}

// FuzzHierarchies reads mounts whose names anybody may have chosen.
func FuzzHierarchies(f *testing.F) {
	f.Add("35 24 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/\n")
	f.Fuzz(func(t *testing.T, mounts, own string) {
		for c := range hierarchies(mounts, own) {
			if !slices.Contains(controllers, c) {
				t.Errorf("a controller %q", c)
			}
		}
	})
}
