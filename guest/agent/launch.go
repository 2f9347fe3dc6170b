package agent

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/dayfly/dayfly/guest/wire"
)

// defaultPath is the PATH of processes where neither image nor caller has one:
// Debian's for root.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Variables that say where a process is; no caller may change them.
const (
	envSandbox    = "E2B_SANDBOX"
	envSandboxID  = "E2B_SANDBOX_ID"
	envTemplateID = "E2B_TEMPLATE_ID"
)

// launch is a process about to be started: everything resolved, nothing open.
type launch struct {
	user account
	path string // of the program
	argv []string
	env  []string
	dir  string
}

// plan resolves a request: program, arguments, environment, directory.
func (a *Agent) plan(user account, req *wire.StartRequest) (*launch, error) {
	st := a.state.Load()
	conf := req.Process
	if conf == nil {
		conf = new(wire.ProcessConfig)
	}
	argv, err := argvOf(st, conf)
	if err != nil {
		return nil, err
	}
	env, err := environment(st, user, conf.Envs, req.PTY != nil)
	if err != nil {
		return nil, err
	}
	dir, err := a.workdir(st, user, conf.Cwd)
	if err != nil {
		return nil, err
	}
	path, err := findProgram(argv[0], env.get("PATH"), dir, user)
	if err != nil {
		return nil, err
	}
	return &launch{user: user, path: path, argv: argv, env: env.list, dir: dir}, nil
}

// argvOf is the command, or with none given what the image would run.
func argvOf(st *state, conf *wire.ProcessConfig) ([]string, error) {
	argv := append([]string{conf.Cmd}, conf.Args...)
	if conf.Cmd == "" {
		args := conf.Args
		if len(args) == 0 {
			args = st.image.Cmd
		}
		argv = slices.Concat(st.image.Entrypoint, args)
	}
	if len(argv) == 0 || argv[0] == "" {
		return nil, wire.Errorf(wire.InvalidArgument, "no command given, and the image has neither entrypoint nor command: name one")
	}
	for _, s := range argv {
		if strings.IndexByte(s, 0) >= 0 {
			return nil, wire.Errorf(wire.InvalidArgument, "command: an argument holds a NUL byte")
		}
	}
	return argv, nil
}

// environ is an environment in the order its variables were first set.
type environ struct {
	list []string
	at   map[string]int
}

func (e *environ) set(k, v string) {
	if e.at == nil {
		e.at = make(map[string]int)
	}
	if i, ok := e.at[k]; ok {
		e.list[i] = k + "=" + v
		return
	}
	e.at[k] = len(e.list)
	e.list = append(e.list, k+"="+v)
}

func (e *environ) get(k string) string {
	if i, ok := e.at[k]; ok {
		return e.list[i][len(k)+1:]
	}
	return ""
}

// setAll adds variables by name order, so that equal requests start equal
// processes.
func (e *environ) setAll(vars map[string]string) {
	names := make([]string, 0, len(vars))
	for k := range vars {
		names = append(names, k)
	}
	slices.Sort(names)
	for _, k := range names {
		e.set(k, vars[k])
	}
}

// environment puts a process's variables together; later ones win: ours, the
// image's, the workspace's, the caller's, and those that say where we are.
func environment(st *state, user account, call map[string]string, pty bool) (*environ, error) {
	for k, v := range call {
		if k == envSandbox || k == envSandboxID || k == envTemplateID {
			delete(call, k)
		}
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.IndexByte(v, 0) >= 0 {
			return nil, wire.Errorf(wire.InvalidArgument, "env %q: a name holds no = and neither part a NUL byte", k)
		}
	}
	e := new(environ)
	e.set("PATH", defaultPath)
	e.set("HOME", user.home)
	e.set("USER", user.name)
	e.set("LOGNAME", user.name)
	if pty {
		e.set("TERM", "xterm")
	}
	for _, kv := range st.image.Env {
		if k, v, ok := strings.Cut(kv, "="); ok && k != "" {
			e.set(k, v)
		}
	}
	e.setAll(st.env)
	e.setAll(call)
	e.set(envSandbox, "true")
	if st.id != "" {
		e.set(envSandboxID, st.id)
	}
	return e, nil
}

// workdir is where a process starts: as asked, else the workspace's or the
// image's directory, else the user's home, else /.
func (a *Agent) workdir(st *state, user account, asked *string) (string, error) {
	dir := st.base(user)
	if asked != nil && *asked != "" {
		var err error
		if dir, err = st.resolve(user, *asked); err != nil {
			return "", err
		}
	}
	fi, err := os.Stat(dir)
	switch {
	case err == nil && fi.IsDir():
		return dir, nil
	case dir == user.home && (asked == nil || *asked == ""):
		return "/", nil // an account without a home can still run commands
	case err == nil:
		return "", wire.Errorf(wire.InvalidArgument, "cwd '%s' is not a directory", dir)
	case errors.Is(err, fs.ErrNotExist):
		return "", wire.Errorf(wire.InvalidArgument, "cwd '%s' does not exist", dir)
	}
	return "", wire.Errorf(wire.InvalidArgument, "cwd '%s': %v", dir, reason(err))
}

// findProgram looks a command up in a PATH as the process's user would.
func findProgram(cmd, path, dir string, user account) (string, error) {
	if strings.Contains(cmd, "/") {
		return cmd, checkProgram(cmd, absolute(dir, cmd), user)
	}
	var refused error
	for _, d := range filepath.SplitList(path) {
		if d == "" {
			d = "."
		}
		p := filepath.Join(d, cmd)
		if !strings.Contains(p, "/") {
			p = "./" + p
		}
		err := checkProgram(cmd, absolute(dir, p), user)
		if err == nil {
			return p, nil
		}
		if code, _ := wire.StartFailure(err); code == wire.ExitCannotExecute && refused == nil {
			refused = err
		}
	}
	if refused != nil {
		return "", refused
	}
	return "", wire.NewStartFailure(wire.ExitNotFound, "%q: command not found in PATH (%s)", cmd, path)
}

func absolute(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// checkProgram says why a file is no program for a user, as far as one can see
// without starting it.
func checkProgram(cmd, path string, user account) error {
	fi, err := os.Stat(path)
	switch {
	case err == nil && fi.IsDir():
		return wire.NewStartFailure(wire.ExitCannotExecute, "%q: is a directory", cmd)
	case err == nil && !mayExecute(fi, user):
		return wire.NewStartFailure(wire.ExitCannotExecute, "%q: permission denied: %s may not execute it (mode %v)", cmd, user.name, fi.Mode())
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return wire.NewStartFailure(wire.ExitNotFound, "%q: no such file: is it in this image?", cmd)
	}
	return wire.NewStartFailure(wire.ExitCannotExecute, "%q: %v", cmd, reason(err))
}

func mayExecute(fi fs.FileInfo, user account) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	mode := fi.Mode().Perm()
	switch {
	case !ok || user.uid == 0:
		return mode&0o111 != 0
	case st.Uid == user.uid:
		return mode&0o100 != 0
	case st.Gid == user.gid || slices.Contains(user.groups, st.Gid):
		return mode&0o010 != 0
	}
	return mode&0o001 != 0
}

// startError words what fork and exec said.
func (l *launch) startError(err error) error {
	cmd := l.argv[0]
	switch {
	case errors.Is(err, syscall.ENOENT):
		return wire.NewStartFailure(wire.ExitNotFound, "%q: its interpreter or dynamic loader is missing in this image", cmd)
	case errors.Is(err, syscall.ENOEXEC):
		return wire.NewStartFailure(wire.ExitCannotExecute, "%q: exec format error: neither a program for this CPU nor a script with a #! line", cmd)
	case errors.Is(err, syscall.EACCES):
		return wire.NewStartFailure(wire.ExitCannotExecute, "%q: permission denied: %s may not execute it, or not enter %s", cmd, l.user.name, l.dir)
	case errors.Is(err, syscall.E2BIG):
		return wire.NewStartFailure(wire.ExitCannotExecute, "%q: argument list or environment too long", cmd)
	case errors.Is(err, syscall.EPERM):
		return wire.Errorf(wire.PermissionDenied, "%q: cannot become user %s: the agent is not root", cmd, l.user.name)
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.ENOMEM):
		return wire.Errorf(wire.ResourceExhausted, "%q: no process can be started: %v", cmd, reason(err))
	}
	return wire.NewStartFailure(wire.ExitCannotExecute, "%q: %v", cmd, reason(err))
}

// reason is the bare cause of a file or system call error.
func reason(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}
