package host

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestAnyBytesAreJudged puts any bytes into all of the files at once: each
// check still says one of the three verdicts, and what to do.
func TestAnyBytesAreJudged(t *testing.T) {
	t.Parallel()
	names := slices.Sorted(maps.Keys(healthy))
	root := plant(t, nil)
	rapid.Check(t, func(t *rapid.T) {
		for _, name := range names {
			text := rapid.OneOf(
				rapid.SampledFrom(slices.Sorted(maps.Values(healthy))),
				rapid.SampledFrom([]string{"", "-1", "0", "max", "18446744073709551616", "9223372036854775807", "[", "a:b:/../../..", strings.Repeat("9", 4096)}),
				rapid.String(),
			).Draw(t, name)
			if err := os.WriteFile(filepath.Join(root.Root, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for _, c := range root.Checks() {
			if c.Status == "" || c.Detail == "" {
				t.Fatalf("%+v", c)
			}
		}
	})
}

// FuzzMounts holds mountinfo and what is found by it to the kernel's form:
// groups are below their hierarchy, whatever their names are.
func FuzzMounts(f *testing.F) {
	f.Add(healthy["proc/self/mountinfo"], healthy["proc/self/cgroup"])
	f.Add(v1Mounts, "8:pids:/a\n0::/\n")
	f.Add(`1 2 3 4 /a\040b\ 6 - cgroup2 x y`, "0::/../../etc\n")
	f.Fuzz(func(t *testing.T, info, groups string) {
		for _, m := range mounts(info) {
			if m.fs == "" || len(m.options) == 0 {
				t.Errorf("%+v", m)
			}
		}
		for _, m := range memberships(groups) {
			for _, dir := range upwards("/h", m.path) {
				if dir != "/h" && !strings.HasPrefix(dir, "/h/") || filepath.Clean(dir) != dir {
					t.Errorf("%q is at %q", m.path, dir)
				}
			}
		}
	})
}

// FuzzCount holds lists of CPUs to a bound, in time and in value.
func FuzzCount(f *testing.F) {
	for _, s := range []string{"0-3,8", "0", "", "3-1", "-", "0-99999999999", "0-65535,0-65535"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, list string) {
		if n := count(list); n < 0 || n > (len(list)+1)<<16 {
			t.Errorf("%q has %d", list, n)
		}
	})
}

// FuzzNumbers reads the rest of what has a form of its own.
func FuzzNumbers(f *testing.F) {
	for _, name := range []string{"proc/self/limits", "proc/swaps", "proc/meminfo", "proc/loadavg", "proc/sys/fs/file-nr", "proc/sys/kernel/osrelease"} {
		f.Add(healthy[name])
	}
	f.Fuzz(func(t *testing.T, text string) {
		n, _ := hardLimit(text, "Max open files")
		used, most, ok := fileNumbers(text)
		major, minor := release(text)
		if n < 0 || threads(text) < 0 || kib(text, "MemTotal") < 0 || ok && (used < 0 || most < 0) {
			t.Errorf("%q is %d, %d of %d, release %d.%d", text, n, used, most, major, minor)
		}
		for _, a := range swaps(text) {
			if a.kib < 0 {
				t.Errorf("%+v", a)
			}
		}
	})
}
