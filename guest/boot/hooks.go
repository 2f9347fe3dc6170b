package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
)

// Bounds of the hooks.
const (
	hookDeadline  = 30 * time.Second // each: one of many copies on few processors takes its time
	hooksDeadline = 45 * time.Second // all
	hookOutput    = 256              // bytes of the last words of one that fails
	hookLinger    = 100 * time.Millisecond
)

const hookPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// hooks runs the executables in renew.d one after the other, while all other
// processes are frozen.
func (r *renewing) hooks(ctx context.Context) (string, error) {
	if r.unused() {
		return "0 run", nil // there is no generator that could be a copy's
	}
	paths, err := hooksIn(r.etc + "/dayfly/renew.d")
	if err != nil || len(paths) == 0 {
		return "0 run", err
	}
	ctx, cancel := context.WithTimeout(ctx, hooksDeadline)
	defer cancel()
	group, err := r.sys.groups.openHooks()
	if err != nil {
		return "", err
	}
	defer r.sys.groups.closeHooks(group)
	renew := "resume"
	if r.anew() {
		renew = "fork"
	}
	env := []string{"PATH=" + hookPath, "HOME=/root", "DAYFLY_GENERATION=" + r.in.Generation, "DAYFLY_WORKSPACE=" + r.in.ID, "DAYFLY_RENEW=" + renew}
	for _, path := range paths {
		h := &hook{path: path, env: env, group: group, groups: &r.sys.groups, fork: r.sys.fork}
		if err := h.run(ctx); err != nil {
			return "", err
		}
	}
	return strconv.Itoa(len(paths)) + " run", nil
}

// hooksIn lists the executable files of a directory in lexical order.
func hooksIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, e := range entries {
		path := dir + "/" + e.Name()
		if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			paths = append(paths, path)
		}
	}
	return paths, nil
}

// hook is one program.
type hook struct {
	path   string
	env    []string
	group  int // descriptor of the hooks' cgroup; -1: none
	groups *cgroups
	fork   Fork
	pid    int
	said   tail
}

// run starts the program and waits for its end.
func (h *hook) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, hookDeadline)
	defer cancel()
	out, wait, err := h.start()
	if err != nil {
		return h.failed(reason(err))
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(&h.said, out)
	}()
	ended := make(chan syscall.WaitStatus, 1)
	go func() { ended <- wait() }()
	var status syscall.WaitStatus
	late := false
	select {
	case status = <-ended:
	case <-ctx.Done():
		late = true
		h.kill()
		status = <-ended
	}
	_ = out.SetReadDeadline(time.Now().Add(hookLinger)) // what it left running may hold the pipe
	<-read
	_ = out.Close()
	h.adopt()
	switch {
	case late:
		return h.failed("it took too long and was killed")
	case status.Signaled():
		return h.failed("signal: " + status.Signal().String())
	case status.ExitStatus() != 0:
		return h.failed("exit status " + strconv.Itoa(status.ExitStatus()))
	}
	return nil
}

func (h *hook) failed(how string) error {
	return dayfly.Errorf(dayfly.Unavailable, "renew hook %s: %s; it said %q", h.path, how, h.said.String())
}

// start starts the program in a session of its own, as root, and returns our
// end of its output.
func (h *hook) start() (out *os.File, wait func() syscall.WaitStatus, err error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, nil, err
	}
	defer null.Close()
	out, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer w.Close()
	sys := &syscall.SysProcAttr{Setsid: true}
	if h.group >= 0 {
		sys.UseCgroupFD, sys.CgroupFD = true, h.group
	}
	attr := &syscall.ProcAttr{Dir: "/", Env: h.env, Files: []uintptr{null.Fd(), w.Fd(), w.Fd()}, Sys: sys}
	wait, err = h.fork(func() (int, error) {
		var err error
		h.pid, err = syscall.ForkExec(h.path, []string{h.path}, attr)
		return h.pid, err
	})
	if err != nil {
		_ = out.Close()
		return nil, nil, err
	}
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", h.pid), []byte("0"), 0) // it may have ended
	return out, wait, nil
}

// adopt hands what the hook left running, such as a service it started, over to
// the workspace, where it is frozen like everything else.
func (h *hook) adopt() {
	if h.group < 0 {
		return
	}
	left, _ := h.groups.read(hooksGroup + "/cgroup.procs")
	for pid := range strings.FieldsSeq(left) {
		_ = h.groups.write(workGroup+"/cgroup.procs", pid) // it may have ended
	}
}

// kill ends the program and all it started.
func (h *hook) kill() {
	if h.group >= 0 {
		_ = h.groups.write(hooksGroup+"/cgroup.kill", "1")
		return
	}
	_ = syscall.Kill(-h.pid, syscall.SIGKILL)
}

// reason is the bare cause of a failed system call.
func reason(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno.Error()
	}
	return err.Error()
}

// openHooks makes the hooks' group. -1: the kernel has no cgroup2.
func (g *cgroups) openHooks() (int, error) {
	if g.top < 0 {
		return -1, nil
	}
	if err := unix.Mkdirat(g.top, hooksGroup, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, err
	}
	return unix.Openat(g.top, hooksGroup, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

func (g *cgroups) closeHooks(group int) {
	if group >= 0 {
		unix.Close(group)
		_ = unix.Unlinkat(g.top, hooksGroup, unix.AT_REMOVEDIR) // what is left in it goes on there
	}
}

// tail keeps the last of what is written to it.
type tail struct {
	mu   sync.Mutex
	last []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = append(t.last, p[max(0, len(p)-hookOutput):]...)
	t.last = t.last[max(0, len(t.last)-hookOutput):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.last)
}
