package qemu_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm"
	"github.com/dayfly/dayfly/vmm/qemu"
)

// standIn is a shell script in QEMU's place: descriptor 3 is its QMP. It can
// misbehave as no real one does unless a guest has taken it over.
func standIn(t *testing.T, script string) *qemu.Driver {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qemu")
	script = "#!/bin/sh\nif [ \"$1\" = --version ]; then echo 'QEMU emulator version 10.0.2 (Stand-in)'; exit; fi\n" + script + "\n"
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return qemu.New(qemu.Options{Binary: path})
}

// answers is what a good QEMU says to the first two commands.
const answers = `echo '{"QMP": {"version": {"qemu": {"major": 10}}}}' >&3
echo '{"return": {}, "id": 1}' >&3
echo '{"return": {"status": "running", "running": true}, "id": 2}' >&3
`

// elf is the head of an x86-64 ELF file.
const elf = "\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x3e\x00"

func config(t *testing.T) vmm.Config {
	t.Helper()
	files := t.TempDir()
	c := vmm.Config{
		ID: "standin", Dir: t.TempDir(), Accel: dayfly.TCG, CPUs: 1, MemoryMiB: 128,
		Kernel: filepath.Join(files, "vmlinux"), Initramfs: filepath.Join(files, "initramfs"),
	}
	for path, text := range map[string]string{c.Kernel: elf, c.Initramfs: ""} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// refused launches what must not come up, and checks that nothing is left.
func refused(t *testing.T, d *qemu.Driver, c vmm.Config, want dayfly.Kind) error {
	t.Helper()
	m, err := d.Launch(t.Context(), c)
	if err == nil {
		_ = m.Close()
		t.Fatal("it launched")
	}
	if got := dayfly.KindOf(err); got != want {
		t.Errorf("error is %s: %v; want %s", got, err, want)
	}
	if left, err := os.ReadDir(c.Dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if left, err := qemu.Orphans(t.Context(), c.Dir); err != nil || len(left) > 0 {
		t.Errorf("still running: %v, %v", left, err)
	}
	return err
}

func TestMissingQEMUSaysHowToGetIt(t *testing.T) {
	t.Parallel()
	d := qemu.New(qemu.Options{Binary: filepath.Join(t.TempDir(), "none")})
	err := refused(t, d, config(t), dayfly.Unavailable)
	_, versionErr := d.Version(t.Context())
	for _, err := range []error{err, versionErr} {
		if !strings.Contains(err.Error(), "qemu-system-x86") || !strings.Contains(err.Error(), "bookworm-backports") {
			t.Errorf("no remedy in %q", err)
		}
	}
}

func TestOldQEMUIsRefused(t *testing.T) {
	t.Parallel()
	for _, launch := range []string{
		"echo 'qemu: -action: invalid option' >&2; exit 1",
		strings.ReplaceAll(answers, `"major": 10`, `"major": 7`) + "sleep 60",
	} {
		path := filepath.Join(t.TempDir(), "qemu")
		script := "#!/bin/sh\nif [ \"$1\" = --version ]; then echo 'QEMU emulator version 7.2.22 (Debian 1:7.2)'; exit; fi\n" + launch
		if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
		d := qemu.New(qemu.Options{Binary: path})
		if _, err := d.Version(t.Context()); dayfly.KindOf(err) != dayfly.Unavailable {
			t.Errorf("Version = %v", err)
		}
		err := refused(t, d, config(t), dayfly.Unavailable)
		if !strings.Contains(err.Error(), "version 7") {
			t.Errorf("error is %q", err)
		}
	}
}

func TestCompressedKernelIsRefused(t *testing.T) {
	t.Parallel()
	c := config(t)
	if err := os.WriteFile(c.Kernel, []byte("MZ not an ELF file, as in /boot"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, standIn(t, "exit 1"), c, dayfly.Invalid)
}

func TestDyingQEMUsLastWordsAreKept(t *testing.T) {
	t.Parallel()
	err := refused(t, standIn(t, "head -c 300000 /dev/zero | tr '\\0' x >&2; echo the end >&2; exit 3"), config(t), dayfly.Internal)
	if s := err.Error(); len(s) > 128<<10 || !strings.Contains(s, "the end") || !strings.Contains(s, "exit status 3") {
		t.Errorf("error has %d bytes and begins with %.200q", len(s), s)
	}
}

func TestNonsenseAtLaunchIsRefused(t *testing.T) {
	t.Parallel()
	refused(t, standIn(t, "echo nonsense >&3; sleep 60"), config(t), dayfly.Internal)
	refused(t, standIn(t, "cat /dev/zero >&3; sleep 60"), config(t), dayfly.Internal)
}

func TestSilentQEMUEndsWithTheContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	c := config(t)
	if _, err := standIn(t, "exec sleep 60").Launch(ctx, c); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Launch = %v", err)
	}
}

// TestMachineThatMisbehavesIsKilled has QEMU do what only a guest that broke
// out would have it do, once it runs.
func TestMachineThatMisbehavesIsKilled(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		then string
		want vmm.Cause
	}{
		"nonsense":           {"echo nonsense >&3", vmm.Crash},
		"endless line":       {"cat /dev/zero >&3", vmm.Crash},
		"hangs up and stays": {"exec 3>&-", vmm.Crash},
		"answers nobody":     {`echo '{"return": {}}' >&3`, vmm.Crash},
		"cannot go on": {`echo '{"event": "STOP"}' >&3; read a <&3; echo '{"return": {"status": "internal-error"}, "id": 3}' >&3`,
			vmm.Crash},
		"console refused": {`echo '{"event": "SHUTDOWN"}' >&3; read a <&3; echo '{"error": {"desc": "no"}, "id": 3}' >&3`, vmm.Crash},
		"huge console": {`echo '{"event": "SHUTDOWN"}' >&3; read a <&3; printf '{"return": "' >&3; head -c 90000 /dev/zero | tr '\0' A >&3; echo '", "id": 3}' >&3`,
			vmm.PowerOff},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, err := standIn(t, answers+"read a <&3; read a <&3;"+c.then+"; exec sleep 60").Launch(t.Context(), config(t))
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			<-m.Done()
			if got := m.Exit(); got.Cause != c.want || (got.Err == nil) != (c.want == vmm.PowerOff) {
				t.Errorf("exit is %+v, want %s", got, c.want)
			}
			if n := len(m.Console()); n > vmm.ConsoleBytes {
				t.Errorf("console has %d bytes", n)
			}
			if _, err := os.Stat(fmt.Sprintf("/proc/%d", m.PID())); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the process is still there: %v", err)
			}
		})
	}
}
