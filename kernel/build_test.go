package kernel

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/test/needs"
)

// A tarball that is built like the kernel's source, in no time: allnoconfig
// copies what it is given, vmlinux is an executable with a PVH note.
const (
	quickMake = `allnoconfig:
	cp $(KCONFIG_ALLCONFIG) .config
	mkdir -p include/config
	echo 6.12.1-quick > include/config/kernel.release
vmlinux:
	@echo compiling with $(MAKEFLAGS)
	gcc -nostdlib -static -Wl,--build-id=none -o vmlinux vmlinux.S
`
	quickKernel = `.section .note.Xen,"a",@note
.long 4, 8, 0x12
.asciz "Xen"
.quad _start
.text
.globl _start
_start: hlt
`
)

// quickSource writes a tarball of a kernel whose Makefile ends with more.
func quickSource(t *testing.T, more string) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, text := range map[string]string{"Makefile": quickMake + more, "vmlinux.S": quickKernel, edits[0].file: edits[0].old} {
		if err := w.WriteHeader(&tar.Header{Name: "linux-source-6.12/" + name, Mode: 0o644, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "source.tar")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// logged is a build's log that may be read while it is written.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
	seen func(text string)
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(p)
	if l.seen != nil {
		l.seen(l.text.String())
	}
	return len(p), nil
}

func TestKernelIsCompiledOnce(t *testing.T) {
	needs.KernelSource(t)
	t.Parallel()
	s, source, log := open(t), quickSource(t, ""), &logged{}
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			k, err := s.Build(t.Context(), BuildOptions{Source: source, Log: log, Jobs: 1})
			if err != nil || k.Release != "6.12.1-quick" || k.Flavour != Tuned || !k.Preferred {
				t.Errorf("Build = %+v, %v", k, err)
			}
		})
	}
	all.Wait()
	if n := strings.Count(log.text.String(), "compiling"); n != 1 {
		t.Errorf("compiled %d times", n)
	}
	b, err := s.Boot(t.Context(), "")
	if want := append(slices.Clone(cmdlines[Tuned]), edits[0].param); err != nil || !slices.Equal(b.Cmdline, want) || b.Older {
		t.Errorf("Boot = %+v, %v; want the parameters %q", b, err, want)
	}
	if got, err := os.ReadFile(filepath.Join(filepath.Dir(b.Vmlinux), configName)); err != nil || !bytes.Equal(got, fragment) {
		t.Errorf("the configuration is not kept: %v", err)
	}
	dir := filepath.Dir(b.Vmlinux)
	rec, err := readRecord(dir)
	if err != nil {
		t.Fatal(err)
	}
	rec.Recipe = "that of another release"
	if err := errors.Join(os.Remove(filepath.Join(dir, recordName)), writeRecord(dir, rec)); err != nil {
		t.Fatal(err)
	}
	if b, err = s.Boot(t.Context(), ""); err != nil || !b.Older {
		t.Errorf("of another release: Boot = %+v, %v", b, err)
	}
	clean(t, s)
}

func TestChangedSourceIsCompiledAnew(t *testing.T) {
	needs.KernelSource(t)
	t.Parallel()
	s, log := open(t), &logged{}
	for _, more := range []string{"", "# changed\n"} {
		if _, err := s.Build(t.Context(), BuildOptions{Source: quickSource(t, more), Log: log}); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(log.text.String(), "compiling"); n != 2 {
		t.Errorf("compiled %d times", n)
	}
}

func TestFailedBuildShowsWhyAndLeavesNothing(t *testing.T) {
	needs.KernelSource(t)
	t.Parallel()
	s := open(t)
	_, err := s.Build(t.Context(), BuildOptions{Source: quickSource(t, "\techo a flaw in the source >&2; false\n")})
	if err == nil || !strings.Contains(err.Error(), "compile") || !strings.Contains(err.Error(), "a flaw in the source") {
		t.Errorf("Build = %v", err)
	}
	clean(t, s)
}

func TestCancelledBuildEndsItsCompilers(t *testing.T) {
	needs.KernelSource(t)
	t.Parallel()
	s := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	log := &logged{seen: func(text string) {
		if strings.Contains(text, "compiler runs") {
			cancel()
		}
	}}
	// The compiler holds the log open: Build cannot return while it lives.
	_, err := s.Build(ctx, BuildOptions{Source: quickSource(t, "\techo compiler runs; sleep 1000 & wait\n"), Log: log})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Build = %v", err)
	}
	clean(t, s)
}

func TestMissingSourceSaysWhatToInstall(t *testing.T) {
	needs.KernelSource(t)
	t.Parallel()
	_, err := open(t).Build(t.Context(), BuildOptions{Source: "/nowhere.tar.xz"})
	if dayfly.KindOf(err) != dayfly.NotFound || !strings.Contains(err.Error(), "apt-get install linux-source-6.12") {
		t.Errorf("Build = %v", err)
	}
}

func TestCommentsDoNotCompileAgain(t *testing.T) {
	t.Parallel()
	a := settings([]byte("# why\nCONFIG_A=y\n\n# CONFIG_B is not set\n"))
	b := settings([]byte("CONFIG_A=y\n# a better why\n# CONFIG_B is not set\n"))
	if !bytes.Equal(a, b) || !bytes.Contains(a, []byte("CONFIG_B")) {
		t.Errorf("settings %q and %q", a, b)
	}
}
