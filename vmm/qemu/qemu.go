// Package qemu is the vmm driver for QEMU's microvm machine, with KVM or with
// software emulation.
//
// One machine is one QEMU process, which talks to us by three ways: QMP over an
// inherited socket pair, the guest's port over a socket that we listen on
// before QEMU exists, and its standard error, of which the end is kept. A guest
// is ended by QMP's word that it powered off or panicked, by the process's end,
// or by Close; one goroutine per machine waits for the first of these, reads
// the console if there is still somebody to ask, kills the process and reaps it.
//
// It leaves directories and drives to the caller and knows nothing of what runs
// in the guest, but that it ends itself by a reboot: a microvm has no power
// switch. Always true: what QEMU says is bounded and checked, as a guest may
// have taken it over; QEMU runs in a session of its own and dies with this
// process unless it is an Orphan.
package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm"
)

// defaultBinary is looked for in the program path.
const defaultBinary = "qemu-system-x86_64"

// minMajor is the oldest version that runs everything here: 7.2 hangs when a
// saved machine is restored under emulation.
const minMajor = 10

const howToGet = "install the package qemu-system-x86 (on Debian 12: apt-get install --no-install-recommends -t bookworm-backports qemu-system-x86)"

// Options are what a driver is made of. The zero value works.
type Options struct {
	Binary string       // of QEMU; default: qemu-system-x86_64 from the program path
	Log    *slog.Logger // default: none

	// VersionCache is a file that remembers what the binary says of itself, as
	// asking takes 20 ms. Default: none.
	VersionCache string
}

// Driver makes machines of QEMU processes. It is a vmm.Driver.
type Driver struct {
	binary string
	log    *slog.Logger
	tsc    *tscRate
	cache  string
}

var _ vmm.Driver = (*Driver)(nil)

// New makes a driver. It does not look whether QEMU is there: see Version.
func New(o Options) *Driver {
	d := &Driver{binary: o.Binary, log: o.Log, tsc: newTSCRate(), cache: o.VersionCache}
	if d.binary == "" {
		d.binary = defaultBinary
	}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	return d
}

// Name is "qemu".
func (d *Driver) Name() string { return "qemu" }

// Lacks says what QEMU has not.
func (*Driver) Lacks() vmm.Lacks { return vmm.Lacks{NICLimits: true} }

var versionLine = regexp.MustCompile(`^QEMU emulator version (\d{1,4})(?:\.\d+)*(?: \([^()\n]*\))?`)

// Version returns what QEMU says of itself, such as "10.0.2 (Debian …)". It
// runs QEMU, which takes some 20 ms, unless the cache knows this very file.
func (d *Driver) Version(ctx context.Context) (string, error) {
	binary, err := d.find()
	if err != nil {
		return "", err
	}
	known := knownVersion{Binary: identity(binary)}
	if known.read(d.cache) {
		return known.Version, nil
	}
	if known.Version, err = askVersion(ctx, binary); err == nil {
		known.write(d.cache)
	}
	return known.Version, err
}

func askVersion(ctx context.Context, binary string) (string, error) {
	out, err := exec.CommandContext(ctx, binary, "--version").Output()
	if err != nil {
		return "", &dayfly.Error{Kind: dayfly.Unavailable, Msg: "qemu does not run: " + howToGet, Err: err}
	}
	m := versionLine.FindSubmatch(out)
	if m == nil {
		return "", dayfly.Errorf(dayfly.Unavailable, "qemu gives no version: %s", howToGet)
	}
	major, _ := strconv.Atoi(string(m[1])) // the pattern holds digits alone
	if err := checkMajor(major); err != nil {
		return "", err
	}
	return string(m[0][len("QEMU emulator version "):]), nil
}

// knownVersion is the version of one binary. Its file is only a cache: one that
// cannot be read or written costs the time to ask.
type knownVersion struct {
	Binary  string `json:"binary"`
	Version string `json:"version"`
}

// identity changes whenever a file does.
func identity(path string) string {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return ""
	}
	return fmt.Sprintf("%s %d:%d %d %d.%09d", path, st.Dev, st.Ino, st.Size, st.Ctim.Sec, st.Ctim.Nsec)
}

func (k *knownVersion) read(path string) bool {
	b, err := os.ReadFile(path)
	var there knownVersion
	if err != nil || json.Unmarshal(b, &there) != nil || there.Binary != k.Binary || there.Binary == "" || there.Version == "" {
		return false
	}
	*k = there
	return true
}

func (k *knownVersion) write(path string) {
	b, err := json.Marshal(k)
	if err != nil || path == "" {
		return
	}
	if tmp := path + ".new"; os.WriteFile(tmp, b, 0o600) == nil {
		_ = os.Rename(tmp, path)
	}
}

func checkMajor(major int) error {
	if major < minMajor {
		return dayfly.Errorf(dayfly.Unavailable, "qemu is version %d, and %d.0 or newer is needed: %s", major, minMajor, howToGet)
	}
	return nil
}

func (d *Driver) find() (string, error) {
	path, err := exec.LookPath(d.binary)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return "", notThere(err)
	}
	return path, nil
}

// firmware is where packages of QEMU keep what it reads at its start.
var firmware = []string{"/usr/share/qemu", "/usr/share/seabios", "/usr/local/share/qemu"}

// Program is QEMU and its firmware. Its error is Unavailable where it is not there.
func (d *Driver) Program(accel dayfly.Accel) (vmm.Program, error) {
	path, err := d.find()
	if err != nil {
		return vmm.Program{}, err
	}
	// One that lies in another place has its firmware beside itself.
	data := append([]string{filepath.Join(filepath.Dir(filepath.Dir(path)), "share", "qemu")}, firmware...)
	slices.Sort(data)
	return vmm.Program{Path: path, Data: slices.Compact(data), KVM: accel == dayfly.KVM}, nil
}

// check refuses what this VMM cannot do, beyond what none can.
func check(c vmm.Config) error {
	if err := c.Check(); err != nil {
		return err
	}
	for i, n := range c.NICs {
		if !n.Limit.None() {
			return dayfly.Errorf(dayfly.Unavailable, "network device %d has a limit, which qemu cannot keep: bound the traffic behind its TAP device", i)
		}
	}
	return nil
}

func notThere(err error) error {
	return &dayfly.Error{Kind: dayfly.Unavailable, Msg: "qemu is not there: " + howToGet, Err: err}
}

// startError tells apart why QEMU could not even be started.
func startError(err error) error {
	if known := new(dayfly.Error); errors.As(err, &known) {
		return err
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return notThere(err)
	}
	return fmt.Errorf("qemu: start: %w", err)
}

// absolute makes the paths of c hold in QEMU's own directory.
func absolute(c vmm.Config) (vmm.Config, error) {
	c.Drives = append([]vmm.Drive(nil), c.Drives...)
	paths := []*string{&c.Dir, &c.Kernel, &c.Initramfs}
	for i := range c.Drives {
		d := &c.Drives[i]
		paths = append(paths, &d.Path)
		d.Below = slices.Clone(d.Below)
		for j := range d.Below {
			paths = append(paths, &d.Below[j])
		}
	}
	for _, p := range paths {
		abs, err := filepath.Abs(*p)
		if err != nil {
			return c, err
		}
		*p = abs
	}
	return c, checkELF(c.Kernel)
}

// checkELF refuses a kernel that QEMU would boot in another way: a compressed
// image from a distribution's /boot starts in real mode and takes seconds.
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
