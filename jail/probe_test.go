package jail

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/test/needs"
)

// A hostile VMM: this test binary, in a jail, called with probeMark, the name of
// a part, and the part's arguments.
const probeMark = "probe"

// victim is what the probe is told of the host it wants to get at.
type victim struct {
	pid      int    // a process of the host's
	file     string // another machine's file, which all may read
	abstract string // a unix socket of the host's, without a path
	path     string // one with a path
	shm      int    // the key of a shared memory segment that all may use
	dir      string // a directory that the jail may write to
}

func (v victim) args() []string {
	return []string{"x", probeMark, "escapes", strconv.Itoa(v.pid), v.file, v.abstract, v.path, strconv.Itoa(v.shm), v.dir}
}

func probe(args []string) int {
	switch args[0] {
	case "escapes":
		pid, _ := strconv.Atoi(args[1])
		shm, _ := strconv.Atoi(args[5])
		return tryEscapes(victim{pid, args[2], args[3], args[4], shm, args[6]})
	case "network":
		fd, _ := strconv.Atoi(args[1])
		pid, _ := strconv.Atoi(args[2])
		return tryReaches(victim{pid: pid, file: args[3], abstract: args[4]}, fd)
	case "call":
		nr, _ := strconv.Atoi(args[1])
		_, _, errno := unix.Syscall6(uintptr(nr), 0, 0, 0, 0, 0, 0)
		fmt.Println("survived with", errno)
	case "say":
		fmt.Println(strings.Join(args[1:], " "))
	case "brought":
		fmt.Println("ESCAPED") // a copy of this binary that the probe made itself
	case "hang":
		fmt.Println("here")
		<-time.After(time.Hour)
	case "read":
		b, err := os.ReadFile(args[1])
		fmt.Println(string(b), err)
	case "open":
		fmt.Println(open(args[1], unix.O_RDWR)(victim{}))
	case "write":
		fmt.Println(os.WriteFile(args[1], []byte("by the jail"), 0o600))
	case "memory":
		return eatMemory()
	case "threads":
		return eatThreads()
	case "spin":
		d, _ := time.ParseDuration(args[1])
		fmt.Println(spin(d))
	case "obey":
		return obey()
	case "direct", "buffered":
		size, _ := strconv.Atoi(args[2])
		return writeTimed(args[1], size, args[0] == "direct")
	case "fill":
		return fillDisk(args[1])
	}
	return 0
}

// attempt is one way out. It returns why it was refused, or nil.
type attempt struct {
	name string
	try  func(victim) error
}

func open(path string, flags int) func(victim) error {
	return func(victim) error {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o600)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
}

func call(nr uintptr, args ...uintptr) func(victim) error {
	return func(victim) error {
		var a [6]uintptr
		copy(a[:], args)
		if _, _, errno := unix.RawSyscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
			return errno
		}
		return nil
	}
}

func socket(family, kind, proto int) func(victim) error {
	return func(victim) error {
		fd, err := unix.Socket(family, kind, proto)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
}

func inDir(do func(path string) error) func(victim) error {
	return func(v victim) error { return do(filepath.Join(v.dir, "x")) }
}

// escapes are the ways out that are refused, but not fatal.
var escapes = []attempt{
	{"read /etc/shadow", open("/etc/shadow", unix.O_RDONLY)},
	{"read /etc/passwd", open("/etc/passwd", unix.O_RDONLY)},
	{"list processes of the host", func(victim) error {
		entries, err := os.ReadDir("/proc")
		for _, e := range entries {
			if pid, bad := strconv.Atoi(e.Name()); bad == nil && pid != os.Getpid() {
				return nil
			}
		}
		return errors.Join(err, errors.New("only its own"))
	}},
	{"look at a process of the host", func(v victim) error { return open(fmt.Sprintf("/proc/%d/status", v.pid), unix.O_RDONLY)(v) }},
	{"kill a process of the host", func(v victim) error { return unix.Kill(v.pid, unix.SIGKILL) }},
	{"get a handle of a process of the host", func(v victim) error { _, err := unix.PidfdOpen(v.pid, 0); return err }},
	{"read another machine's file", func(v victim) error { return open(v.file, unix.O_RDONLY)(v) }},
	{"climb out by ..", open("/../../../../etc/shadow", unix.O_RDONLY)},
	{"climb out by the root of process 1", open("/proc/1/root/etc/shadow", unix.O_RDONLY)},
	{"climb out by a symbolic link", inDir(func(p string) error {
		_ = os.Symlink("/etc/shadow", p)
		defer os.Remove(p)
		return open(p, unix.O_RDONLY)(victim{})
	})},
	{"make a device file", inDir(func(p string) error { return unix.Mknod(p, unix.S_IFBLK|0o600, int(unix.Mkdev(254, 0))) })},
	{"open /dev/mem", open("/dev/mem", unix.O_RDWR)},
	{"open /dev/kvm that was not given", open("/dev/kvm", unix.O_RDWR)},
	{"open /dev/vda", open("/dev/vda", unix.O_RDONLY)},
	{"open /dev/tty", open("/dev/tty", unix.O_RDWR)},
	{"open /dev/fuse", open("/dev/fuse", unix.O_RDWR)},
	{"open /dev/net/tun that was not given", open("/dev/net/tun", unix.O_RDWR)},
	{"open /dev/kmsg", open("/dev/kmsg", unix.O_RDONLY)},
	{"read the kernel log", call(unix.SYS_SYSLOG, 3, 0, 0)},
	{"become root", call(unix.SYS_SETUID, 0)},
	{"become root in all ids", call(unix.SYS_SETRESUID, 0, 0, 0)},
	{"become group root", call(unix.SYS_SETGID, 0)},
	{"add groups", call(unix.SYS_SETGROUPS, 0, 0)},
	{"take capabilities", func(victim) error {
		h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		d := [2]unix.CapUserData{{Effective: 1 << unix.CAP_SYS_ADMIN, Permitted: 1 << unix.CAP_SYS_ADMIN}}
		return unix.Capset(&h, &d[0])
	}},
	{"raise an ambient capability", func(victim) error {
		return unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, unix.CAP_NET_RAW, 0, 0)
	}},
	{"drop no-new-privileges", func(victim) error { return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0) }},
	{"switch the filter off", func(victim) error { return unix.Prctl(unix.PR_SET_SECCOMP, 0, 0, 0, 0) }},
	{"open a TCP socket", socket(unix.AF_INET, unix.SOCK_STREAM, 0)},
	{"open a TCP socket of version 6", socket(unix.AF_INET6, unix.SOCK_STREAM, 0)},
	{"open a UDP socket", socket(unix.AF_INET, unix.SOCK_DGRAM, 0)},
	{"open a raw socket", socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)},
	{"open a packet socket", socket(unix.AF_PACKET, unix.SOCK_RAW, 0)},
	{"open a netlink socket", socket(unix.AF_NETLINK, unix.SOCK_RAW, 0)},
	{"open a vsock socket", socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)},
	{"open a crypto socket", socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0)},
	{"connect to an abstract socket of the host", func(v victim) error { return connect("@" + v.abstract) }},
	{"connect to a socket of the host by its path", func(v victim) error { return connect(v.path) }},
	{"attach to shared memory of the host", func(v victim) error { _, err := unix.SysvShmGet(v.shm, 4096, 0); return err }},
	{"make a user namespace", call(unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD))},
	{"make a user namespace by clone3", func(victim) error {
		args := [11]uint64{unix.CLONE_NEWUSER} // struct clone_args, flags first
		return call(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args))(victim{})
	}},
	{"fork", call(unix.SYS_CLONE, uintptr(unix.SIGCHLD))},
	{"start a program", func(victim) error {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		return exec.Command(self, probeMark, "say", "x").Run()
	}},
	{"run a program that it brought", inDir(func(p string) error {
		if err := copySelf(p); err != nil {
			return err
		}
		defer os.Remove(p)
		return unix.Exec(p, []string{p, probeMark, "brought"}, nil)
	})},
	{"run one without a name", func(victim) error {
		fd, err := unix.MemfdCreate("x", 0)
		if err != nil {
			return err
		}
		if err := copySelf(fmt.Sprintf("/proc/self/fd/%d", fd)); err != nil {
			return nil // it has the file
		}
		return unix.Exec(fmt.Sprintf("/proc/self/fd/%d", fd), []string{"x", probeMark, "brought"}, nil)
	}},
	{"run a program by descriptor", call(unix.SYS_EXECVEAT, ^uintptr(0), 0, 0, 0, 0)},
	{"map a file that it brought to be run", inDir(func(p string) error {
		f, err := os.Create(p)
		if err != nil {
			return err
		}
		defer f.Close()
		defer os.Remove(p)
		if err := f.Truncate(4096); err != nil {
			return err
		}
		b, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE)
		if err == nil {
			_ = unix.Munmap(b)
		}
		return err
	})},
	{"write to the root", open("/x", unix.O_WRONLY|unix.O_CREAT)},
	{"write to /tmp", open("/tmp/x", unix.O_WRONLY|unix.O_CREAT)},
	{"write to /dev", open("/dev/x", unix.O_WRONLY|unix.O_CREAT)},
	{"write to the program", func(victim) error { return open(must(os.Executable()), unix.O_WRONLY)(victim{}) }},
	{"link the program where it may write", func(v victim) error {
		return os.Link(must(os.Executable()), filepath.Join(v.dir, "linked"))
	}},
	{"use an inherited descriptor", func(victim) error {
		entries, err := os.ReadDir("/proc/self/fd")
		for _, e := range entries {
			to, bad := os.Readlink("/proc/self/fd/" + e.Name())
			fd, _ := strconv.Atoi(e.Name())
			if bad == nil && fd > 2 && !strings.HasPrefix(to, "anon_inode:[event") && !strings.HasPrefix(to, "/proc/") {
				fmt.Println("it has", to)
				return nil
			}
		}
		return errors.Join(err, errors.New("only those it was given"))
	}},
	{"write to what was brought to be read", open(testFile, unix.O_WRONLY)},
	{"take away what was brought", func(victim) error { return os.Remove(testFile) }},
	{"put a link in its place", func(victim) error {
		link := filepath.Join(testRoom, "link")
		if err := os.Symlink("/", link); err != nil {
			return nil // it may
		}
		return os.Rename(link, testFile)
	}},
	{"link it where it may write", func(victim) error { return os.Link(testFile, filepath.Join(testRoom, "linked")) }},
	{"take a place away", func(victim) error { return os.Remove(testPlace) }},
	{"write to a place", open(testPlace, unix.O_WRONLY)},
	{"make a device in its room", func(victim) error {
		return unix.Mknod(filepath.Join(testRoom, "null"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3)))
	}},
	{"fill its room", func(victim) error {
		large := filepath.Join(testRoom, "large")
		return errors.Join(os.WriteFile(large, make([]byte, 1<<20), 0o600), os.Remove(large))
	}},
	{"run a program from its room", func(victim) error {
		p := filepath.Join(testRoom, "program")
		if err := os.WriteFile(p, []byte("#!/x"), 0o700); err != nil {
			return nil // it may
		}
		return unix.Exec(p, []string{p}, nil)
	}},
	{"see mounts of the host", func(victim) error {
		b, err := os.ReadFile("/proc/self/mountinfo")
		for line := range strings.Lines(string(b)) {
			if at := strings.Fields(line)[4]; at == "/sys" || at == "/run" || strings.Contains(line, "cgroup") {
				return nil
			}
		}
		return errors.Join(err, errors.New("only its own"))
	}},
	{"see its control group's place", func(victim) error {
		b, err := os.ReadFile("/proc/self/cgroup")
		if strings.Contains(string(b), "dayfly") {
			return nil
		}
		return errors.Join(err, errors.New("only that it is at the top"))
	}},
	{"write to control groups", open("/sys/fs/cgroup", unix.O_RDONLY)},
	{"look at /sys", open("/sys/kernel", unix.O_RDONLY)},
	{"set the core pattern", open("/proc/sys/kernel/core_pattern", unix.O_WRONLY)},
	{"press the magic key", open("/proc/sysrq-trigger", unix.O_WRONLY)},
	{"read kernel addresses", open("/proc/kallsyms", unix.O_RDONLY)},
	{"ask not to be killed for memory", open("/proc/self/oom_score_adj", unix.O_WRONLY)},
	{"set up io_uring", call(unix.SYS_IO_URING_SETUP, 8, 0)},
	{"serve page faults", call(unix.SYS_USERFAULTFD, 0)},
	{"watch the file system", call(unix.SYS_FANOTIFY_INIT, 0, 0)},
	{"allow itself core dumps", func(victim) error {
		return unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1 << 20, Max: 1 << 20})
	}},
	{"go before others", func(victim) error { return unix.Setpriority(unix.PRIO_PROCESS, 0, -5) }},
	{"go in real time", func(victim) error {
		param := int32(1)
		return call(unix.SYS_SCHED_SETSCHEDULER, 0, 1, uintptr(unsafe.Pointer(&param)))(victim{})
	}},
	{"lock memory", func(victim) error { return unix.Mlock(make([]byte, 1<<20)) }},
	{"see the host's name", func(victim) error {
		var u unix.Utsname
		if err := unix.Uname(&u); err != nil {
			return err
		}
		if unix.ByteSliceToString(u.Nodename[:]) != hostName {
			return nil
		}
		return errors.New("only the jail's")
	}},
}

func must(s string, err error) string {
	if err != nil {
		panic(err)
	}
	return s
}

func connect(name string) error {
	c, err := net.Dial("unix", name)
	if err == nil {
		_ = c.Close()
	}
	return err
}

func copySelf(to string) error {
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer from.Close()
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	return errors.Join(err, f.Close())
}

func tryEscapes(v victim) int {
	for _, e := range escapes {
		if err := e.try(v); err != nil {
			fmt.Printf("refused\t%s\t%v\n", e.name, err)
		} else {
			fmt.Printf("ESCAPED\t%s\t\n", e.name)
		}
	}
	fmt.Println("done")
	return 0
}

// newVictim makes on the host what the probe wants to get at.
func newVictim(t *testing.T) victim {
	t.Helper()
	dir := tempDir(t)
	v := victim{pid: os.Getpid(), file: filepath.Join(dir, "other", "disk"), dir: filepath.Join(dir, "own"), path: filepath.Join(dir, "sock")}
	for _, d := range []string{filepath.Dir(v.file), v.dir} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(v.file, []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	v.abstract = filepath.Base(dir)
	for _, name := range []string{"@" + v.abstract, v.path} {
		l, err := net.Listen("unix", name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
	}
	v.shm = 0x64610000 + os.Getpid()<<4 + int(ranges.Add(testCount)/testCount)%16
	id, err := unix.SysvShmGet(v.shm, 4096, unix.IPC_CREAT|0o666)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = unix.SysvShmCtl(id, unix.IPC_RMID, nil) })
	return v
}

func TestHostileProgramIsRefusedEveryWayOut(t *testing.T) {
	t.Parallel()
	refusedEveryWayOut(t, nil)
}

// TestHostileProgramWithANetworkIsRefusedEveryWayOut has one device more: see
// TestJailWithANetworkHasItsTAPAlone for what that is good for.
func TestHostileProgramWithANetworkIsRefusedEveryWayOut(t *testing.T) {
	t.Parallel()
	refusedEveryWayOut(t, network(t), "open /dev/net/tun that was not given")
}

// refusedEveryWayOut has the probe try all, of which some are given to it.
func refusedEveryWayOut(t *testing.T, network *os.File, given ...string) {
	t.Helper()
	p := openPool(t, testOptions(t))
	v := newVictim(t)
	j := take(t, p, Spec{
		Shape: self(t), Room: testRoom, Places: []string{testPlace}, Network: network,
		Files: []File{{Path: v.dir, Write: true, Own: true}, {Path: v.file, To: testFile, Own: true}},
	})
	out, exit := output(t, j, Command{Args: v.args()})
	refusals := 0
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "refused\t") {
			refusals++
		}
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "ESCAPED\t"); ok && !slices.Contains(given, name) || !ok && strings.Contains(line, "ESCAPED") {
			t.Error(line)
		}
	}
	if want := len(escapes) - len(given); refusals != want || !strings.HasSuffix(out, "done") {
		t.Errorf("%d of %d ways out were refused; it ended with %v and said\n%s", refusals, want, exit.Err(), out)
	}
}

// TestWaysOutAreOpenOutside keeps the probe from failing for reasons of its own.
func TestWaysOutAreOpenOutside(t *testing.T) {
	t.Parallel()
	needs.Jail(t)
	v := newVictim(t)
	for _, e := range escapes {
		switch e.name {
		case "read /etc/passwd", "look at a process of the host", "read another machine's file", "open a TCP socket", "open a UDP socket",
			"connect to an abstract socket of the host", "connect to a socket of the host by its path", "attach to shared memory of the host",
			"list processes of the host", "get a handle of a process of the host", "see the host's name", "look at /sys", "start a program":
			if err := e.try(v); err != nil {
				t.Errorf("%s: %v: it proves nothing that a jail refuses it", e.name, err)
			}
		}
	}
}

func TestFatalCallEndsTheJailAndIsNamed(t *testing.T) {
	t.Parallel()
	p := openPool(t, testOptions(t))
	for _, names := range []map[uint32]string{fatal, fatalHere} {
		for nr, name := range names {
			t.Run(name, func(t *testing.T) {
				j := take(t, p, Spec{Shape: self(t)})
				out, exit := output(t, j, Command{Args: []string{"x", probeMark, "call", strconv.Itoa(int(nr))}})
				if exit.Forbidden != name {
					t.Errorf("the exit names %q (%v); the program said %q", exit.Forbidden, exit.Err(), out)
				}
				if status, ok := exit.State.Sys().(syscall.WaitStatus); !ok || status.Signal() != unix.SIGKILL {
					t.Errorf("it ended with %v", exit.State)
				}
			})
		}
	}
}
