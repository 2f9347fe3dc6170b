package node

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/kernel"
	"github.com/dayfly/dayfly/vmm"
)

// kvmDeadline is how long a guest on KVM gets to answer. On hardware it takes a
// fraction of a second; a KVM that cannot run a stock kernel hangs or dies.
const kvmDeadline = 10 * time.Second

// verdict is whether a guest was proved to run on KVM: that /dev/kvm opens is
// no proof. It is kept in a file, as the proof takes a boot, and holds for one
// boot of the host, one guest kernel and one VMM. Each VMM has a file of its own.
type verdict struct {
	path  func(vmm.Driver) string
	log   *slog.Logger
	prove func(context.Context, vmm.Driver, kernel.Boot) error

	mu sync.Mutex // held during the proof, so that it is made once
}

type kvmRecord struct {
	Host   string `json:"host_boot"`
	Kernel string `json:"kernel"`
	VMM    string `json:"vmm"`
	Reason string `json:"reason"` // why not; empty: it runs
}

// accel turns what a spec asks for into what this host can do.
func (n *Node) accel(ctx context.Context, d vmm.Driver, want dayfly.Accel, boot kernel.Boot) (dayfly.Accel, error) {
	if want == dayfly.TCG {
		return dayfly.TCG, nil
	}
	reason, err := n.kvmReason(ctx, d, boot)
	switch {
	case err != nil:
		return "", err
	case reason == "":
		return dayfly.KVM, nil
	case want == dayfly.KVM:
		return "", dayfly.Errorf(dayfly.Unavailable, "KVM cannot run guests here: %s; use --accel auto or tcg (software emulation)", reason)
	}
	return dayfly.TCG, nil
}

// kvmReason says why guests do not run on KVM, or "" if they do.
func (n *Node) kvmReason(ctx context.Context, d vmm.Driver, boot kernel.Boot) (string, error) {
	if f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err != nil {
		return strings.TrimPrefix(err.Error(), "open "), nil
	} else {
		f.Close()
	}
	version, err := d.Version(ctx)
	if err != nil {
		return "", err
	}
	return n.kvm.reason(ctx, d, boot, kvmRecord{Host: hostBoot(), Kernel: boot.Kernel.ID, VMM: d.Name() + " " + version})
}

// kvmFile is where the verdict on a driver is kept.
func (n *Node) kvmFile(d vmm.Driver) string {
	if d.Name() == n.Driver.Name() {
		return filepath.Join(n.Dir, "kvm.json")
	}
	return filepath.Join(n.Dir, "kvm."+d.Name()+".json")
}

// reason returns the verdict for key, from the file or by a proof.
func (v *verdict) reason(ctx context.Context, d vmm.Driver, boot kernel.Boot, key kvmRecord) (string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	path := v.path(d)
	var known kvmRecord
	if b, err := os.ReadFile(path); err == nil && json.Unmarshal(b, &known) == nil {
		key.Reason = known.Reason
		if key == known {
			return known.Reason, nil
		}
	}
	key.Reason = ""
	if err := v.prove(ctx, d, boot); err != nil {
		if ctx.Err() != nil {
			return "", context.Cause(ctx) // cut short: no verdict
		}
		v.log.Debug("no guest ran on kvm", "err", err)
		key.Reason = firstLine(err)
	}
	b, err := json.Marshal(key)
	if err != nil {
		return "", err
	}
	// Only a cache: without it the next process makes the proof again.
	if tmp := path + ".new"; os.WriteFile(tmp, b, 0o600) == nil {
		_ = os.Rename(tmp, path)
	}
	return key.Reason, nil
}

// firstLine is the gist of an error: what it says to callers, without remedy
// and console.
func firstLine(err error) string {
	text := err.Error()
	var e *dayfly.Error
	if errors.As(err, &e) {
		text, _, _ = strings.Cut(e.Msg, ": use ")
	}
	line, _, _ := strings.Cut(text, "\n")
	return strings.TrimSuffix(line, "; "+consoleHead)
}

// proveKVM boots the kernel to its agent's hello on KVM.
func (n *Node) proveKVM(ctx context.Context, d vmm.Driver, boot kernel.Boot) (err error) {
	home, err := n.newScratch()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, home.remove()) }()
	m, _, err := n.launch(ctx, d, vmm.Config{
		ID: string(home.id), Dir: home.dir, Accel: dayfly.KVM, CPUs: 1, MemoryMiB: dayfly.DefaultMemoryMiB,
		Kernel: boot.Vmlinux, Initramfs: boot.Initramfs, Cmdline: boot.Cmdline,
	})
	if err != nil {
		return err
	}
	defer m.Close()
	session, err := meet(ctx, m, kvmDeadline)
	if err != nil {
		return err
	}
	return session.Close()
}

func hostBoot() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}
