package boot

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest/wire"
)

// renewal is what makes a restored copy one of its own, in order. Each row
// returns what it read back once it was done.
var renewal = []struct {
	name string
	do   func(*renewing, context.Context) (string, error)
}{
	{wire.StepFrozen, (*renewing).frozen},
	{wire.StepDiskKey, (*renewing).diskKey}, // before anything is written
	{wire.StepEntropy, (*renewing).entropy},
	{wire.StepClock, (*renewing).clock},
	{wire.StepSockets, (*renewing).sockets},
	{wire.StepTokens, (*renewing).tokens},
	{wire.StepHostname, (*renewing).hostname},
	{wire.StepMachineID, (*renewing).machineID},
	{wire.StepBootID, (*renewing).bootID},
	{wire.StepEnv, (*renewing).env},
	{wire.StepGeneration, (*renewing).generation},
	{wire.StepHooks, (*renewing).hooks},
}

// renewing is one run through the table.
type renewing struct {
	sys   *System
	in    *wire.Renew
	apply func(step string) (string, error)
	etc   string // /etc of the workspace
	run   string // runDir
	watch *stopwatch
}

// Renew works through the table. apply carries out the steps that are not this
// package's and returns their confirmation. The processes stay frozen, also on
// error, upon which the host throws the machine away.
func (s *System) Renew(ctx context.Context, in wire.Renew, apply func(step string) (string, error)) (wire.RenewReply, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer clear(in.Entropy)
	defer clear(in.DiskKey)
	var reply wire.RenewReply
	if s.done == nil {
		return reply, errEmpty()
	}
	if err := checkRenew(&in); err != nil {
		return reply, err
	}
	r := &renewing{sys: s, in: &in, apply: apply, etc: "/etc", run: runDir, watch: s.sinceArrival()}
	for _, st := range renewal {
		err := r.watch.time(st.name, func() error {
			value, err := st.do(r, ctx)
			if err == nil {
				reply.Confirmed = append(reply.Confirmed, wire.Confirmation{Name: st.name, Value: value})
			}
			return err
		})
		if err != nil {
			return wire.RenewReply{}, err
		}
	}
	reply.Timeline = r.watch.line
	return reply, nil
}

func checkRenew(in *wire.Renew) error {
	const longest = 64
	ok := in.Generation != "" && len(in.Generation) <= longest
	for _, c := range []byte(in.Generation) {
		ok = ok && (c == '-' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z')
	}
	switch {
	case !ok:
		return dayfly.Errorf(dayfly.Invalid, "renew: generation: use 1 to %d of a-z, 0-9 and -", longest)
	case in.Identity != wire.IdentitySame && in.Identity != wire.IdentityNew:
		return dayfly.Errorf(dayfly.Invalid, "renew: identity: use %s or %s", wire.IdentitySame, wire.IdentityNew)
	case in.Identity == wire.IdentityNew && wire.HostName(in.Hostname, in.ID) == "":
		return dayfly.Errorf(dayfly.Invalid, "renew: a new identity needs an id")
	case len(in.Entropy) < wire.MinEntropy:
		return dayfly.Errorf(dayfly.Invalid, "renew: entropy: send at least %d bytes", wire.MinEntropy)
	case in.Timestamp == "":
		return dayfly.Errorf(dayfly.Invalid, "renew: timestamp: say what time it is")
	}
	return nil
}

func (r *renewing) anew() bool { return r.in.Identity == wire.IdentityNew }

// unused reports whether no process of a user's has run yet.
func (r *renewing) unused() bool { return len(r.in.DiskKey) > 0 }

func (r *renewing) frozen(ctx context.Context) (string, error) {
	if r.unused() {
		return "0 processes", nil
	}
	n, err := r.sys.groups.freeze(ctx)
	return strconv.Itoa(n) + " processes", err
}

func (r *renewing) entropy(context.Context) (string, error) { return addEntropy(r.in.Entropy) }

func (r *renewing) diskKey(context.Context) (string, error) {
	if r.unused() != r.sys.resting {
		return "", dayfly.Errorf(dayfly.Conflict, "a disk goes on with another key exactly if it is at rest")
	}
	if !r.unused() {
		return "kept", nil
	}
	if err := rekey(cryptDev, r.in.DiskKey); err != nil {
		return "", err
	}
	r.sys.resting = false
	return "set", nil
}

func (r *renewing) clock(context.Context) (string, error) {
	if r.sys.look() {
		return "", errors.New("the monotonic clock went back")
	}
	return setClock(r.in.Timestamp, time.Since(r.watch.began))
}

func (r *renewing) sockets(context.Context) (string, error) {
	n := 0
	if sessions := r.sys.sessions.Load(); sessions != nil {
		n = sessions.Drop()
	}
	return strconv.Itoa(n) + " dropped", nil
}

func (r *renewing) tokens(context.Context) (string, error) { return r.apply(wire.StepTokens) }

func (r *renewing) env(context.Context) (string, error) { return r.apply(wire.StepEnv) }

func (r *renewing) hostname(context.Context) (string, error) {
	if !r.anew() {
		return hostname(), nil
	}
	old, name := hostname(), wire.HostName(r.in.Hostname, r.in.ID)
	if err := unix.Sethostname([]byte(name)); err != nil {
		return "", err
	}
	fresh := names(name)
	for i, f := range names(old) {
		// What the workspace has put there of its own stays.
		if err := rewrite(r.etc+"/"+f.name, func(old string) bool { return old == f.content }, fresh[i].content); err != nil {
			return "", err
		}
	}
	return hostname(), nil
}

func (r *renewing) machineID(context.Context) (string, error) {
	path := r.etc + "/machine-id"
	if !r.anew() {
		return readMachineID(path)
	}
	id := newMachineID()
	if err := rewrite(path, func(string) bool { return true }, id+"\n"); err != nil {
		return "", err
	}
	got, err := readMachineID(path)
	if err == nil && got != id && got != noMachineID && got != linkMachineID {
		err = fmt.Errorf("%s holds something else", path)
	}
	return got, err
}

// rewrite changes what a file holds, in place, which costs a fraction of a new
// file: nobody runs who could see half of it. What is no regular file, or holds
// nothing that may go, stays.
func rewrite(path string, mayGo func(old string) bool, content string) error {
	old, ok, err := readSmall(path)
	if err != nil || !ok || !mayGo(old) {
		return err
	}
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer unix.Close(fd)
	if _, err = unix.Pwrite(fd, []byte(content), 0); err == nil && len(content) < len(old) {
		err = unix.Ftruncate(fd, int64(len(content)))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// readSmall returns up to 4 KiB of a regular file, and whether it is one.
func readSmall(path string) (string, bool, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("%s: %w", path, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return "", false, err
	}
	b := make([]byte, 4<<10)
	n, err := unix.Read(fd, b)
	if err != nil {
		return "", false, fmt.Errorf("%s: %w", path, err)
	}
	return string(b[:n]), true, nil
}

// bootID covers the kernel's boot id, which a copy has inherited, by one of its
// own. A process that went into a mount namespace of its own before the first
// renewal keeps seeing the kernel's.
func (r *renewing) bootID(context.Context) (string, error) {
	if !r.anew() {
		return bootID(), nil
	}
	id := newUUID()
	if err := r.coverBootID(id + "\n"); err != nil {
		return "", err
	}
	got := bootID()
	if got != id {
		return "", fmt.Errorf("%s was not covered", bootIDFile)
	}
	return got, nil
}

func (r *renewing) coverBootID(text string) error {
	if r.sys.boot != nil {
		_, err := r.sys.boot.WriteAt([]byte(text), 0) // as long as the last one
		return err
	}
	if err := os.MkdirAll(r.run, 0o755); err != nil {
		return err
	}
	path := r.run + "/boot_id"
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o444) //nolint:gosec // the world reads the kernel's
	if err != nil {
		return err
	}
	if _, err = f.WriteString(text); err == nil {
		err = unix.Mount(path, bootIDFile, "", unix.MS_BIND, "")
	}
	if err != nil {
		return errors.Join(fmt.Errorf("cover %s: %w", bootIDFile, err), f.Close())
	}
	r.sys.boot = f
	return nil
}

// newUUID returns a random UUID as the kernel writes them (RFC 9562, version 4).
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

const generationFile = "generation"

// generation writes the file in place: that costs a fifth of a new one, and no
// process runs that could see half of it.
func (r *renewing) generation(context.Context) (string, error) {
	path := r.run + "/" + generationFile
	fd, err := openInPlace(path)
	if errors.Is(err, unix.ENOENT) {
		if err = os.MkdirAll(r.run, 0o755); err == nil {
			fd, err = openInPlace(path)
		}
	}
	if err != nil { // a link, or no file: what the workspace has made of it
		if err := replace(path, r.in.Generation+"\n"); err != nil {
			return "", err
		}
		if fd, err = openInPlace(path); err != nil {
			return "", fmt.Errorf("%s: %w", path, err)
		}
	}
	defer unix.Close(fd)
	return overwrite(fd, r.in.Generation+"\n")
}

// openInPlace opens or makes a regular file.
func openInPlace(path string) (fd int, err error) {
	fd, err = unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		return -1, unix.EINVAL
	}
	return fd, nil
}

// overwrite makes a line all that a file holds, and returns what it reads back.
func overwrite(fd int, line string) (string, error) {
	if _, err := unix.Pwrite(fd, []byte(line), 0); err != nil {
		return "", err
	}
	if err := unix.Ftruncate(fd, int64(len(line))); err != nil {
		return "", err
	}
	b := make([]byte, len(line)+1)
	n, err := unix.Pread(fd, b, 0)
	return strings.TrimSpace(string(b[:max(n, 0)])), err
}

// replace puts a new file in the place of another, whose mode it gets, in one
// step: nobody sees half of it.
func replace(path, content string) (err error) {
	mode := os.FileMode(0o644)
	if fi, err := os.Lstat(path); err == nil {
		mode = fi.Mode().Perm()
	}
	temp := path + ".dayfly-new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	if err = errors.Join(err, f.Chmod(mode), f.Close()); err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		_ = os.Remove(temp)
	}
	return err
}
