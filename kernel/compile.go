package kernel

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
)

// compileFiles is about how many lines make prints while it compiles: a
// yardstick for progress bars, counted once.
const compileFiles = 2600

// compileEnv is all that the build sees of the environment: equal input, equal kernel.
var compileEnv = []string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	"LC_ALL=C.UTF-8",
	"KBUILD_BUILD_TIMESTAMP=@0",
	"KBUILD_BUILD_USER=dayfly",
	"KBUILD_BUILD_HOST=dayfly",
}

// tools are the programs a build needs and the Debian packages that hold them.
var tools = []struct{ program, pkg string }{
	{"gcc", "gcc"},
	{"ld", "binutils"},
	{"strip", "binutils"},
	{"make", "make"},
	{"bc", "bc"},
	{"flex", "flex"},
	{"bison", "bison"},
	{"tar", "tar"},
	{"xz", "xz-utils"},
}

// libelfHeader is what the kernel's objtool is compiled with.
const libelfHeader = "/usr/include/libelf.h"

func checkTools() error {
	var lack []string
	for _, t := range tools {
		if _, err := exec.LookPath(t.program); err != nil {
			lack = append(lack, t.pkg)
		}
	}
	if _, err := os.Stat(libelfHeader); err != nil {
		lack = append(lack, "libelf-dev")
	}
	if len(lack) == 0 {
		return nil
	}
	return dayfly.Errorf(dayfly.Unavailable, "kernel: build: tools are missing: \"apt-get install %s\" brings them",
		strings.Join(slices.Compact(lack), " "))
}

func compilerVersion(ctx context.Context) (string, error) {
	var out bytes.Buffer
	for _, tool := range []string{"gcc", "ld"} {
		if err := run(ctx, command{args: []string{tool, "--version"}, out: &out}); err != nil {
			return "", err
		}
	}
	return out.String(), nil
}

// compilation is one build under way.
type compilation struct {
	dir      string // of the source, and of what is made of it
	fragment string
	opts     BuildOptions
	params   []string // kernel parameters that our edits brought
}

func (c *compilation) unpack(ctx context.Context) error {
	if err := os.Mkdir(c.dir, 0o700); err != nil {
		return err
	}
	return run(ctx, command{
		args: []string{"tar", "--extract", "--strip-components=1", "--no-same-owner", "--file", c.opts.Source},
		dir:  c.dir, out: c.opts.Log,
	})
}

func (c *compilation) edit(context.Context) (err error) {
	c.params, err = applyEdits(c.dir, c.opts.Log)
	return err
}

func (c *compilation) configure(ctx context.Context) error {
	return run(ctx, command{
		args: []string{"make", "KCONFIG_ALLCONFIG=" + c.fragment, "allnoconfig"},
		dir:  c.dir, out: c.opts.Log,
	})
}

func (c *compilation) compile(ctx context.Context) error {
	return run(ctx, command{
		args: []string{"make", "-j" + strconv.Itoa(c.opts.Jobs), "vmlinux"},
		dir:  c.dir, out: &fileCounter{log: c.opts.Log, report: c.opts.Progress},
	})
}

func (c *compilation) strip(ctx context.Context) error {
	return run(ctx, command{args: []string{"strip", "-s", "vmlinux"}, dir: c.dir, out: c.opts.Log})
}

// collect writes the kernel's directory, but for its record.
func (c *compilation) collect(dir string) (record, error) {
	release, err := os.ReadFile(filepath.Join(c.dir, "include/config/kernel.release"))
	if err != nil {
		return record{}, err
	}
	rel := strings.TrimSpace(string(release))
	if !validRelease(rel) {
		return record{}, fmt.Errorf("release %q is not a kernel's", rel)
	}
	vmlinux, err := os.ReadFile(filepath.Join(c.dir, "vmlinux"))
	if err != nil {
		return record{}, err
	}
	if err := errors.Join(checkELF(vmlinux), checkPVH(vmlinux)); err != nil {
		return record{}, err
	}
	config, err := os.ReadFile(filepath.Join(c.dir, ".config"))
	if err != nil {
		return record{}, err
	}
	if err := os.MkdirAll(filepath.Join(dir, modulesDir), 0o700); err != nil {
		return record{}, err
	}
	sum := sha256.Sum256(vmlinux)
	return record{
		Kernel: dayfly.Kernel{
			ID:      rel + "-" + hex.EncodeToString(sum[:4]),
			Release: rel,
			Flavour: Tuned,
			Size:    int64(len(vmlinux)),
		},
		Cmdline:   c.params,
		CreatedAt: time.Now().UTC().Truncate(time.Second),
	}, errors.Join(writeFile(filepath.Join(dir, vmlinuxName), vmlinux), writeFile(filepath.Join(dir, configName), config))
}

// command is a program to run for a build.
type command struct {
	args []string
	dir  string
	out  io.Writer
}

const maxLastWords = 2 << 10 // bytes of a failed command's output kept for its error

// run runs a command and its whole family, which dies with ctx and with us.
func run(ctx context.Context, c command) error {
	// The kernel sends Pdeathsig when the thread that forked ends: keep it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	words := &lastWords{}
	cmd := exec.CommandContext(ctx, c.args[0], c.args[1:]...)
	cmd.Dir, cmd.Env = c.dir, compileEnv
	out := io.MultiWriter(c.out, words)
	cmd.Stdout, cmd.Stderr = out, out // the same value: one pipe, so lines stay in order
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	if os.Geteuid() == 0 {
		// As the first process of a pid namespace it takes every compiler along
		// when it dies, even if we are killed.
		cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWPID
	}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	err := cmd.Run()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", c.args[0], err, words)
	}
	return nil
}

// lastWords keeps the end of what is written to it.
type lastWords struct{ b []byte }

func (l *lastWords) Write(p []byte) (int, error) {
	l.b = append(l.b, p...)
	l.b = l.b[max(0, len(l.b)-maxLastWords):]
	return len(p), nil
}

func (l *lastWords) String() string { return strings.TrimSpace(string(l.b)) }

// fileCounter reports progress by the lines that make prints, one a file.
type fileCounter struct {
	log    io.Writer
	report func(dayfly.Progress)
	n      int64
}

func (f *fileCounter) Write(p []byte) (int, error) {
	f.n += int64(bytes.Count(p, []byte{'\n'}))
	f.report(dayfly.Progress{Step: "compile", Done: min(f.n, compileFiles), Total: compileFiles})
	return f.log.Write(p)
}
