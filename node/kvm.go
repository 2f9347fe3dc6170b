package node

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
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
// boot of the host, one guest kernel and one VMM.
type verdict struct {
	path  string
	log   *slog.Logger
	prove func(context.Context, kernel.Boot) error

	mu sync.Mutex // held during the proof, so that it is made once
}

type kvmRecord struct {
	Host   string `json:"host_boot"`
	Kernel string `json:"kernel"`
	VMM    string `json:"vmm"`
	Reason string `json:"reason"` // why not; empty: it runs
}

// accel turns what a spec asks for into what this host can do.
func (n *Node) accel(ctx context.Context, want dayfly.Accel, boot kernel.Boot) (dayfly.Accel, error) {
	if want == dayfly.TCG {
		return dayfly.TCG, nil
	}
	reason, err := n.kvmReason(ctx, boot)
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
func (n *Node) kvmReason(ctx context.Context, boot kernel.Boot) (string, error) {
	if f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err != nil {
		return strings.TrimPrefix(err.Error(), "open "), nil
	} else {
		f.Close()
	}
	version, err := n.Driver.Version(ctx)
	if err != nil {
		return "", err
	}
	return n.kvm.reason(ctx, boot, kvmRecord{Host: hostBoot(), Kernel: boot.Kernel.ID, VMM: n.Driver.Name() + " " + version})
}

// reason returns the verdict for key, from the file or by a proof.
func (v *verdict) reason(ctx context.Context, boot kernel.Boot, key kvmRecord) (string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var known kvmRecord
	if b, err := os.ReadFile(v.path); err == nil && json.Unmarshal(b, &known) == nil {
		key.Reason = known.Reason
		if key == known {
			return known.Reason, nil
		}
	}
	key.Reason = ""
	if err := v.prove(ctx, boot); err != nil {
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
	if tmp := v.path + ".new"; os.WriteFile(tmp, b, 0o600) == nil {
		_ = os.Rename(tmp, v.path)
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
func (n *Node) proveKVM(ctx context.Context, boot kernel.Boot) (err error) {
	home, err := n.newScratch()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, home.remove()) }()
	m, _, err := n.launch(ctx, vmm.Config{
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
