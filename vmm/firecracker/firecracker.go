// Package firecracker is the vmm driver for Firecracker, which runs guests on
// KVM alone.
//
// One machine is one Firecracker process, whose working directory is the
// machine's, so that every path it is told and every path in a saved state is a
// name there: links to the drives, and the sockets of its API and of the guest's
// channel. In a jail it has a directory of that kind too, where the drives are
// mounts. The console, the log and the metrics are pipes. The API is used
// over its socket by a small client of our own, one request at a time, each with
// a deadline. The channel is a vsock connection that Firecracker makes for
// whoever asks on a unix socket. A guest ends by the process's end, or by Close;
// one goroutine per machine waits for the first of these.
//
// It leaves directories, the files of drives and the jail (see Spawner) to the
// caller. It has no layers of disks: see PushLayer. Always true: what Firecracker says is
// bounded, as a guest may have taken it over; it runs with its own seccomp
// filters, in a session of its own, and dies with this process unless it is an
// Orphan.
package firecracker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm"
)

// defaultBinary is looked for in the program path.
const defaultBinary = "firecracker"

// minVersion is the oldest that runs everything here: in 1.16.0 the channel of a
// restored machine stays silent.
var minVersion = version{1, 16, 1}

const howToGet = "run dayfly setup firecracker"

// Options are what a driver is made of. The zero value works.
type Options struct {
	Binary string       // of Firecracker; default: firecracker from the program path
	Log    *slog.Logger // default: none

	// Balloon gives every machine a device that takes memory back from its guest.
	// It deflates by itself when the guest runs out of memory.
	Balloon bool

	// Metrics is called with every line of JSON that a machine's Firecracker
	// flushes, once a minute and at its end. Default: they are not written.
	Metrics func(machine string, line []byte)
}

// Driver makes machines of Firecracker processes. It is a vmm.Driver.
type Driver struct {
	options Options
	log     *slog.Logger
	limits  limits

	mu          sync.Mutex
	asked, said string // which file was asked for its version, and what it said
}

var _ vmm.Driver = (*Driver)(nil)

// New makes a driver. It does not look whether Firecracker is there: see
// Version.
func New(o Options) *Driver {
	d := &Driver{options: o, log: o.Log, limits: defaultLimits}
	if d.options.Binary == "" {
		d.options.Binary = defaultBinary
	}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	return d
}

// Name is "firecracker".
func (d *Driver) Name() string { return "firecracker" }

// Lacks says what Firecracker has not.
func (*Driver) Lacks() vmm.Lacks {
	return vmm.Lacks{Layers: true, LastingChannel: true, Emulation: true, LimitsByDirection: true}
}

// Version returns what Firecracker says of itself, such as "1.16.2". It runs
// Firecracker, which takes a few milliseconds, once for each file that it is.
func (d *Driver) Version(ctx context.Context) (string, error) {
	binary, err := d.find()
	if err != nil {
		return "", err
	}
	is := identity(binary)
	d.mu.Lock()
	defer d.mu.Unlock()
	if is != "" && is == d.asked {
		return d.said, nil
	}
	said, err := d.askVersion(ctx, binary)
	if err == nil {
		d.asked, d.said = is, said
	}
	return said, err
}

func (d *Driver) askVersion(ctx context.Context, binary string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, d.limits.answer)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary, "--version").Output()
	if err != nil {
		return "", &dayfly.Error{Kind: dayfly.Unavailable, Msg: "firecracker does not run: " + howToGet, Err: err}
	}
	return parseVersion(string(out))
}

// identity changes whenever a file does.
func identity(path string) string {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return ""
	}
	return fmt.Sprintf("%s %d:%d %d %d.%09d", path, st.Dev, st.Ino, st.Size, st.Ctim.Sec, st.Ctim.Nsec)
}

// version is a release: major, minor, patch.
type version [3]int

func (v version) String() string {
	return strconv.Itoa(v[0]) + "." + strconv.Itoa(v[1]) + "." + strconv.Itoa(v[2])
}

func (v version) before(o version) bool {
	for i := range v {
		if v[i] != o[i] {
			return v[i] < o[i]
		}
	}
	return false
}

var versionText = regexp.MustCompile(`^(?:Firecracker v)?((\d{1,4})\.(\d{1,4})\.(\d{1,4})[-+.0-9A-Za-z]{0,64})`)

// parseVersion reads the line of --version or the answer of the API, and refuses
// one that is too old.
func parseVersion(text string) (string, error) {
	m := versionText.FindStringSubmatch(text)
	if m == nil {
		return "", dayfly.Errorf(dayfly.Unavailable, "firecracker gives no version: %s", howToGet)
	}
	var v version
	for i := range v {
		v[i], _ = strconv.Atoi(m[i+2]) // the pattern holds digits alone
	}
	if v.before(minVersion) {
		return "", dayfly.Errorf(dayfly.Unavailable, "firecracker is version %s, and %s or newer is needed: %s", v, minVersion, howToGet)
	}
	return m[1], nil
}

func (d *Driver) find() (string, error) {
	path, err := exec.LookPath(d.options.Binary)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return "", notThere(err)
	}
	return path, nil
}

func notThere(err error) error {
	return &dayfly.Error{Kind: dayfly.Unavailable, Msg: "firecracker is not there: " + howToGet, Err: err}
}

// startError tells apart why Firecracker could not even be started.
func startError(err error) error {
	if known := new(dayfly.Error); errors.As(err, &known) {
		return err
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return notThere(err)
	}
	return &dayfly.Error{Kind: dayfly.Internal, Msg: "firecracker could not be started", Err: err}
}

// check refuses what this VMM cannot do, beyond what none can.
func check(c vmm.Config) error {
	if err := c.Check(); err != nil {
		return err
	}
	if c.Accel != dayfly.KVM {
		return dayfly.Errorf(dayfly.Invalid, "firecracker runs guests on kvm alone: use qemu, or --accel kvm")
	}
	for i, d := range c.Drives {
		if len(d.Below) > 0 {
			return noLayers(i)
		}
	}
	return checkELF(c.Kernel)
}

func noLayers(drive int) error {
	return dayfly.Errorf(dayfly.Unavailable, "drive %d has layers, and firecracker has none: use qemu", drive)
}

// checkELF refuses a compressed kernel, which Firecracker does not unpack.
func checkELF(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return &dayfly.Error{Kind: dayfly.Invalid, Msg: "the guest kernel cannot be read", Err: err}
	}
	defer f.Close()
	const machineAt, machineX86 = 18, 62 // e_machine and EM_X86_64: elf(5)
	var head [20]byte
	if _, err := f.ReadAt(head[:], 0); err != nil || string(head[:5]) != "\x7fELF\x02" || head[machineAt] != machineX86 || head[machineAt+1] != 0 {
		return dayfly.Errorf(dayfly.Invalid, "the guest kernel is not an uncompressed x86-64 ELF file: dayfly kernel import unpacks one from a package")
	}
	return nil
}

// absolute makes the paths of c hold in Firecracker's own directory.
func absolute(c vmm.Config) (vmm.Config, error) {
	c.Drives = append([]vmm.Drive(nil), c.Drives...)
	paths := []*string{&c.Dir, &c.Kernel, &c.Initramfs}
	for i := range c.Drives {
		paths = append(paths, &c.Drives[i].Path)
	}
	for _, p := range paths {
		abs, err := filepath.Abs(*p)
		if err != nil {
			return c, err
		}
		*p = abs
	}
	return c, nil
}
