package jail

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
)

// Jail is one jail. One process can be started in it, once. Its methods may be
// called at the same time.
type Jail struct {
	pool  *Pool
	spec  Spec
	uid   int
	group *group

	program program
	line    *line
	proc    *Process // the first process, which becomes the VMM
	who     occupant // the same, as recorded
	users   *os.File // a user namespace to map files by; nil where there can be none

	mu      sync.Mutex // guards what follows
	started bool
	orphan  bool       // what was started outlives its owner
	owned   []*os.File // files that were given to the jail's user
	closed  bool
	err     error
}

// UID is the jail's user and group; 0 where jails are off.
func (j *Jail) UID() int { return j.uid }

// make sets up a new jail and its first process.
func (p *Pool) make(ctx context.Context, s Shape) (_ *Jail, err error) {
	found, err := p.programs.find(s.Program)
	if err != nil {
		return nil, err
	}
	j := &Jail{pool: p, spec: Spec{Shape: s}, program: found}
	if j.uid, err = p.ids.take(func(uid int) error { return p.tree.group(uid).remove() }); err != nil {
		return nil, err
	}
	j.group = p.tree.group(j.uid)
	defer func() {
		if err != nil {
			err = errors.Join(err, j.Close())
		}
	}()
	if j.users, err = mapping(j.uid); err != nil {
		p.log.Debug("no users can be mapped", "err", err) // own does without where it can
	}
	if err := j.begin(); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, j.line.interrupt)
	defer stop()
	if err := j.line.tell(j.setup(), nil); err != nil {
		return nil, j.broken(ctx, "set-up", err)
	}
	a, _, err := j.line.hear()
	if err != nil {
		return nil, j.broken(ctx, "set-up", err)
	}
	if a.Error != "" {
		return nil, dayfly.Errorf(dayfly.Unavailable, "jail: set-up: %s: see dayfly doctor for what jails need", a.Error)
	}
	if !j.good() {
		return nil, &dayfly.Error{Kind: dayfly.Internal, Msg: "jail: set-up: the first process is not where it should be"}
	}
	return j, nil
}

// begin starts the first process, records it and puts it into its control
// groups. The record comes before all that an owner who is killed could leave.
func (j *Jail) begin() error {
	l, theirs, err := newLine()
	if err != nil {
		return fmt.Errorf("jail: %w", err)
	}
	defer theirs.Close()
	j.line = l
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("jail: %w", err)
	}
	defer null.Close()
	j.proc, err = spawn(j.pool.self, []string{firstName}, &os.ProcAttr{
		Dir:   "/",
		Env:   []string{"GOMAXPROCS=1", "GOGC=off", "GOTRACEBACK=none"},
		Files: reserved(null, theirs),
		Sys: &syscall.SysProcAttr{
			Setsid:     true,
			Pdeathsig:  syscall.SIGKILL,
			Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS | syscall.CLONE_NEWNET,
		},
	})
	if errors.Is(err, unix.EPERM) {
		return dayfly.Errorf(dayfly.Unavailable, "jail: this process may not make namespaces: it needs CAP_SYS_ADMIN, which some containers take away")
	}
	if err != nil {
		return fmt.Errorf("jail: first process: %w", err)
	}
	if err := j.record(phaseAhead); err != nil {
		return err
	}
	return j.group.make(j.proc.PID())
}

// programFiles is how many descriptors a program can be given.
const programFiles = 32

// reserved are the descriptors of a first process. Those that its program is to
// have are taken from the beginning: one of Go's runtime among them would be
// replaced while the runtime may still use it, and ends the process for that.
func reserved(null, control *os.File) []*os.File {
	files := slices.Repeat([]*os.File{null}, programFiles)
	files[controlFD] = control
	return files
}

func (j *Jail) record(p phase) error {
	at, err := startTime(j.proc.PID())
	if err != nil {
		return fmt.Errorf("jail: first process: %w", err)
	}
	j.who = occupant{j.proc.PID(), at, p}
	return j.pool.ids.write(j.uid, j.who)
}

func (j *Jail) setup() setup {
	s := setup{UID: j.uid, Top: j.pool.dir, Binds: slices.Clone(j.program.binds), Links: j.program.links, KVM: j.spec.KVM}
	for _, path := range j.spec.Data {
		from, err := filepath.EvalSymlinks(path)
		if err != nil {
			continue // not on this host
		}
		if info, err := os.Stat(from); err == nil {
			s.Binds = append(s.Binds, bind{From: from, To: path, Dir: info.IsDir()})
		}
	}
	return s
}

// broken tells why the first process does not answer.
func (j *Jail) broken(ctx context.Context, what string, err error) error {
	if cause := ctx.Err(); cause != nil {
		return cause
	}
	j.proc.Kill()
	return fmt.Errorf("jail: %s: %w", what, errors.Join(err, j.proc.Exit().Err()))
}

// Command is what a jail is to run.
type Command struct {
	Args   []string   // all of them, the name the program is called by first
	Env    []string   // all of it
	Dir    string     // in the jail; "" is its root
	Stdin  *os.File   // nil is /dev/null, as for the others
	Stdout *os.File   //
	Stderr *os.File   //
	Files  []*os.File // descriptors 3 and up

	// Orphan lets the process outlive its owner, whose Sweep then leaves it.
	// Otherwise the kernel kills it with the owner.
	Orphan bool
}

// Start runs the jail's program. It returns when that has begun and was seen to
// have none of the rights it should not have. The error is Unavailable when
// the jail's user has no way to what the program needs, which it names.
func (j *Jail) Start(ctx context.Context, c Command) (*Process, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case j.closed:
		return nil, dayfly.Errorf(dayfly.Conflict, "jail: it is closed")
	case j.started:
		return nil, dayfly.Errorf(dayfly.Conflict, "jail: it was used before: take another")
	case len(c.Args) == 0:
		return nil, dayfly.Errorf(dayfly.Invalid, "jail: a command has at least its name")
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	j.started, j.orphan = true, c.Orphan
	if j.pool.off {
		return j.bare(c)
	}
	stop := context.AfterFunc(ctx, j.line.interrupt)
	defer stop()
	listener, err := j.launch(ctx, c)
	if err != nil {
		j.proc.Kill()
		return nil, err
	}
	if err := j.verify(j.proc.PID()); err != nil {
		unix.Close(listener)
		j.proc.Kill()
		return nil, err
	}
	if err := j.proc.watch(listener); err != nil {
		j.proc.Kill()
		return nil, err
	}
	return j.proc, nil
}

// launch sends the command and waits until the first process has turned into
// the program, which closes the line.
func (j *Jail) launch(ctx context.Context, c Command) (listener int, err error) {
	msg, fds, err := j.message(c)
	defer func() {
		for _, f := range fds {
			_ = f.Close() // copies, or mounts of no place
		}
	}()
	if err != nil {
		return -1, err
	}
	if err := j.record(phaseRuns); err != nil {
		return -1, err
	}
	numbers := make([]int, len(fds))
	for i, f := range fds {
		numbers[i] = int(f.Fd())
	}
	if err := j.line.tell(msg, numbers); err != nil {
		return -1, j.broken(ctx, "start", err)
	}
	listener = -1
	for {
		a, fd, err := j.line.hear()
		if fd >= 0 {
			listener = fd
		}
		switch {
		case err != nil && a == (answer{}) && isEOF(err) && listener >= 0:
			return listener, nil
		case err != nil:
			err = j.broken(ctx, "start", err)
		case a.Error != "":
			err = dayfly.Errorf(dayfly.Unavailable, "jail: start: %s", a.Error)
		}
		if err != nil {
			if listener >= 0 {
				unix.Close(listener)
			}
			return -1, err
		}
	}
}

// message is the start, and copies of all descriptors that go with it.
func (j *Jail) message(c Command) (_ start, fds []*os.File, err error) {
	l := j.spec.Limits
	m := start{
		Program: j.program.path, Args: c.Args, Env: c.Env, Dir: c.Dir, Orphan: c.Orphan,
		OpenFiles: DefaultOpenFiles, FileSize: uint64(max(0, l.FileSize)), Processes: uint64(processes(l)),
	}
	if m.Dir == "" {
		m.Dir = "/"
	}
	if l.OpenFiles > 0 {
		m.OpenFiles = uint64(l.OpenFiles)
	}
	all := append([]*os.File{c.Stdin, c.Stdout, c.Stderr}, c.Files...)
	if len(all) > programFiles {
		return m, nil, dayfly.Errorf(dayfly.Invalid, "jail: %d descriptors: a program can be given %d", len(all), programFiles)
	}
	for i, f := range all {
		dup, err := duplicate(f)
		if err != nil {
			return m, fds, fmt.Errorf("jail: descriptor %d: %w", i, err)
		}
		fds = append(fds, dup)
		var st unix.Stat_t
		if err := unix.Fstat(int(dup.Fd()), &st); err != nil || st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return m, fds, errors.Join(dayfly.Errorf(dayfly.Invalid, "jail: descriptor %d: a directory would be a way out", i), err)
		}
	}
	m.Files, m.Room, m.Places = len(fds), j.spec.Room, j.spec.Places
	if j.spec.Network != nil {
		dup, err := duplicate(j.spec.Network)
		if err != nil {
			return m, fds, fmt.Errorf("jail: network: %w", err)
		}
		fds, m.Network = append(fds, dup), true
	}
	for _, f := range j.spec.Files {
		tree, dir, err := j.open(f)
		if err != nil {
			return m, fds, err
		}
		fds = append(fds, tree)
		m.Mounts = append(m.Mounts, mount{To: f.to(), Dir: dir, Write: f.Write})
	}
	return m, fds, nil
}

func duplicate(f *os.File) (*os.File, error) {
	if f == nil {
		return os.OpenFile(os.DevNull, os.O_RDWR, 0)
	}
	raw, err := f.SyscallConn() // Fd would make it block
	if err != nil {
		return nil, err
	}
	fd := -1
	var dup error
	err = raw.Control(func(old uintptr) { fd, dup = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) })
	if err = errors.Join(err, dup); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// Limit changes the limits of control groups that l names; zeros stay as they
// are. It may be called while the process runs, as to bound its CPUs only when
// it has started.
func (j *Jail) Limit(l Limits) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return dayfly.Errorf(dayfly.Conflict, "jail: it is closed")
	}
	if j.pool.off {
		return nil
	}
	return j.group.limit(l)
}

// Close kills what runs in the jail and removes it. Nothing of it is left.
func (j *Jail) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return j.err
	}
	j.closed = true
	if j.line != nil {
		j.line.close()
	}
	if j.proc != nil {
		j.proc.Kill()
		j.proc.deaf()
	}
	if j.pool.off {
		return nil
	}
	var errs []error
	if j.users != nil {
		errs = append(errs, j.users.Close())
	}
	for _, f := range j.owned {
		errs = append(errs, unix.Fchownat(int(f.Fd()), "", 0, 0, unix.AT_EMPTY_PATH), f.Close())
	}
	if j.group != nil {
		errs = append(errs, j.group.remove())
	}
	if j.uid != 0 {
		errs = append(errs, j.pool.ids.give(j.uid))
	}
	if j.pool.over() {
		j.pool.tree.uproot()
	}
	j.err = errors.Join(errs...)
	return j.err
}

// bare starts the program without any walls.
func (j *Jail) bare(c Command) (_ *Process, err error) {
	if j.spec.Network != nil {
		return nil, dayfly.Errorf(dayfly.Unavailable, "jail: switched off, it has no network of its own: switch it on")
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	attr := &os.ProcAttr{Dir: c.Dir, Env: c.Env, Sys: &syscall.SysProcAttr{Setsid: true}}
	for _, f := range append([]*os.File{c.Stdin, c.Stdout, c.Stderr}, c.Files...) {
		if f == nil {
			f = null
		}
		attr.Files = append(attr.Files, f)
	}
	if !c.Orphan {
		attr.Sys.Pdeathsig = syscall.SIGKILL
	}
	if attr.Env == nil {
		attr.Env = []string{}
	}
	j.proc, err = spawn(j.spec.Program, c.Args, attr)
	return j.proc, err
}
