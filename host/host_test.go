package host

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
)

// healthy is a host without a fault, as files and what is in them.
var healthy = map[string]string{
	"proc/self/status":                  "Name:\tdayfly\nCapEff:\t000001ffffffffff\nCpus_allowed_list:\t0-7\n",
	"proc/self/limits":                  "Limit                     Soft Limit           Hard Limit           Units     \nMax open files            1048576              1048576              files     \n",
	"proc/self/cgroup":                  "0::/system.slice/dayfly.service\n",
	"proc/self/mountinfo":               "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate,favordynmods\n",
	"proc/cpuinfo":                      "processor\t: 0\nflags\t\t: fpu vme vmx\n",
	"proc/cmdline":                      "root=/dev/sda1 quiet",
	"proc/loadavg":                      "0.10 0.10 0.10 2/400 1234\n",
	"proc/swaps":                        "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n",
	"proc/meminfo":                      "MemTotal:       16777216 kB\nCommitLimit:     8388608 kB\nCommitted_AS:    4194304 kB\nHugePages_Total:       0\nHugepagesize:       2048 kB\n",
	"proc/sys/kernel/osrelease":         "6.12.0-1-amd64\n",
	"proc/sys/kernel/pid_max":           "4194304\n",
	"proc/sys/kernel/threads-max":       "127000\n",
	"proc/sys/kernel/yama/ptrace_scope": "1\n",

	"proc/sys/kernel/random/entropy_avail":                              "256\n",
	"proc/sys/kernel/random/poolsize":                                   "256\n",
	"proc/sys/fs/file-nr":                                               "1000\t0\t9223372036854775807\n",
	"proc/sys/fs/nr_open":                                               "1048576\n",
	"proc/sys/fs/inotify/max_user_instances":                            "128\n",
	"proc/sys/vm/overcommit_memory":                                     "0\n",
	"proc/sys/vm/unprivileged_userfaultfd":                              "0\n",
	"sys/devices/system/cpu/online":                                     "0-7\n",
	"sys/devices/system/cpu/smt/active":                                 "0\n",
	"sys/devices/system/cpu/smt/control":                                "off\n",
	"sys/devices/system/cpu/vulnerabilities/mds":                        "Mitigation: Clear CPU buffers; SMT vulnerable\n",
	"sys/devices/system/cpu/vulnerabilities/itlb_multihit":              "Not affected\n",
	"sys/devices/system/cpu/cpufreq/policy0/scaling_governor":           "performance\n",
	"sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq":           "800000\n",
	"sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq":           "3600000\n",
	"sys/devices/system/clocksource/clocksource0/current_clocksource":   "tsc\n",
	"sys/devices/system/clocksource/clocksource0/available_clocksource": "tsc hpet acpi_pm \n",

	"sys/kernel/mm/ksm/run":                                  "0\n",
	"sys/kernel/mm/transparent_hugepage/enabled":             "always [madvise] never\n",
	"sys/module/kvm_intel/parameters/nested":                 "N\n",
	"sys/fs/cgroup/cgroup.subtree_control":                   "cpuset cpu io memory pids\n",
	"sys/fs/cgroup/system.slice/dayfly.service/pids.max":     "max\n",
	"sys/fs/cgroup/system.slice/dayfly.service/pids.current": "12\n",
	"dev/vhost-vsock":                                        "",
}

// plant makes a tree of a host that differs from the healthy one; a file whose
// text is absent is not there.
func plant(t *testing.T, differs map[string]string) Host {
	t.Helper()
	root := t.TempDir()
	for _, files := range []map[string]string{healthy, differs} {
		for name, text := range files {
			path := filepath.Join(root, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if text == absent {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
				continue
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return Host{Root: root, Dir: "/state", Space: space(Space{Free: 100 << 30, Files: 1e6, Magic: unix.EXT4_SUPER_MAGIC})}
}

const absent = "\x00absent"

func space(s Space) func(string) (Space, error) {
	return func(string) (Space, error) { return s, nil }
}

func find(t *testing.T, list []dayfly.Check, name string) dayfly.Check {
	t.Helper()
	for _, c := range list {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("no check %s among %v", name, list)
	return dayfly.Check{}
}

func TestHealthyHostHasNoFinding(t *testing.T) {
	t.Parallel()
	list := plant(t, nil).Checks()
	if len(list) != len(guide) {
		t.Errorf("%d checks, want %d", len(list), len(guide))
	}
	for _, c := range list {
		if c.Status != dayfly.Good || c.Detail == "" || c.Cost != "" || c.Remedy != "" || c.Subject == "" {
			t.Errorf("%+v", c)
		}
	}
}

// TestEachFindingIsFound makes one thing wrong at a time: that check says so,
// and no other.
func TestEachFindingIsFound(t *testing.T) {
	t.Parallel()
	for _, c := range faults {
		t.Run(c.check+"/"+c.name, func(t *testing.T) {
			t.Parallel()
			list := plant(t, c.differs).Checks()
			for _, line := range list {
				if line.Name != c.check && line.Status != dayfly.Good && !slices.Contains(c.too, line.Name) {
					t.Errorf("another check: %+v", line)
				}
			}
			got := find(t, list, c.check)
			want := c.status
			if want == "" {
				want = dayfly.Lacking
			}
			if got.Status != want {
				t.Fatalf("%+v, want %s", got, want)
			}
			if said := got.Detail + "\n" + got.Cost + "\n" + got.Remedy; !strings.Contains(said, c.says) {
				t.Errorf("%s\ndoes not say %q", said, c.says)
			}
			if want != dayfly.Good && got.Remedy == "" {
				t.Errorf("%+v: nothing to do about it", got)
			}
		})
	}
}

// TestEveryCheckHasAFault keeps the table above as long as the guide; those
// that are always good have none.
func TestEveryCheckHasAFault(t *testing.T) {
	t.Parallel()
	covered := []string{"vsock", "inotify", "disk", "filesystem"} // the last two: storage_test.go
	for _, c := range faults {
		covered = append(covered, c.check)
	}
	for _, name := range Names() {
		if !slices.Contains(covered, name) {
			t.Errorf("%s has no fault in the table", name)
		}
	}
}

func TestNoProcIsBroken(t *testing.T) {
	t.Parallel()
	list := Host{Root: t.TempDir()}.Checks()
	if len(list) != 1 || list[0].Status != dayfly.Broken {
		t.Errorf("%+v, want one broken", list)
	}
}

func TestThisHostIsJudged(t *testing.T) {
	t.Parallel()
	list := Host{Dir: t.TempDir()}.Checks()
	if len(list) != len(guide) {
		t.Fatalf("%+v", list)
	}
	for _, c := range list {
		t.Logf("%-8s %-12s %s | %s | %s", c.Status, c.Name, c.Detail, c.Cost, c.Remedy)
		if c.Name == "" || c.Detail == "" || c.Status != dayfly.Good && c.Remedy == "" {
			t.Errorf("%+v", c)
		}
	}
}

func TestStorage(t *testing.T) {
	t.Parallel()
	const ext4 = unix.EXT4_SUPER_MAGIC
	for name, c := range map[string]struct {
		space      Space
		disk, kind dayfly.Status
	}{
		"roomy":        {Space{10 << 30, 1e6, ext4}, dayfly.Good, dayfly.Good},
		"small":        {Space{1 << 30, 1e6, ext4}, dayfly.Lacking, dayfly.Good},
		"full":         {Space{1 << 20, 1e6, ext4}, dayfly.Broken, dayfly.Good},
		"no inodes":    {Space{10 << 30, 10, ext4}, dayfly.Lacking, dayfly.Good},
		"Btrfs":        {Space{10 << 30, -1, unix.BTRFS_SUPER_MAGIC}, dayfly.Good, dayfly.Good},
		"in memory":    {Space{10 << 30, 1e6, unix.TMPFS_MAGIC}, dayfly.Good, dayfly.Lacking},
		"far away":     {Space{10 << 30, 1e6, unix.NFS_SUPER_MAGIC}, dayfly.Good, dayfly.Lacking},
		"of container": {Space{10 << 30, 1e6, unix.OVERLAYFS_SUPER_MAGIC}, dayfly.Good, dayfly.Lacking},
		"unknown":      {Space{10 << 30, 1e6, 42}, dayfly.Good, dayfly.Lacking},
	} {
		h := Host{Dir: "/state", Space: space(c.space)}
		if d, k := h.disk(), h.filesystem(); d.Status != c.disk || k.Status != c.kind {
			t.Errorf("%s: %+v, %+v", name, d, k)
		}
	}
	gone := Host{Space: func(string) (Space, error) { return Space{}, errors.New("gone") }}
	if d, k := gone.disk(), gone.filesystem(); d.Status != dayfly.Broken || k.Status != dayfly.Broken {
		t.Errorf("without a directory: %+v, %+v", d, k)
	}
}

func TestGuideForPeopleHasEveryCheck(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/host.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range Names() {
		if !strings.Contains(string(text), "| `"+name+"` |") {
			t.Errorf("docs/host.md has no row for %s", name)
		}
	}
}
