// Package kernel keeps the kernels that guests boot: it unpacks Debian's cloud
// kernel from its package, compiles a tuned one from the kernel's source, and
// packs the initramfs that carries the guest agent.
//
//	.deb ──► Import ─┐
//	                 ├──► kernels/ID (immutable) ──► Boot ──► packs/…cpio
//	source ─► Build ─┘
//
// It runs nothing of what it keeps and knows no VMM: callers boot what Boot
// names. Always true: a kernel or pack that is visible is whole and on disk; any
// number of processes may share a store; what a killed process left half-made
// is removed by the next Open. docs/formats/kernel-store.md has the layout.
package kernel

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/dayfly/dayfly"
)

// The flavours of kernels: Debian's own, and ours compiled with dayfly.config.
const (
	Distribution = "distribution"
	Tuned        = "tuned"
)

// agentEnv is handed on by the kernel, which makes what it does not know the
// environment of pid 1. Go's scheduler signals a goroutine that has run for 10 ms,
// which it has all the time while an emulator translates it: 50 ms of a boot. The
// agent has no loop that only a signal could interrupt, and what it starts does
// not inherit its environment.
const agentEnv = "GODEBUG=asyncpreemptoff=1"

// cmdlines is the parameters that the kernels of a flavour need.
var cmdlines = map[string][]string{
	Tuned: {
		agentEnv,
		"acpi=off",           // devices come by virtio_mmio.device=, the fastest way to find them
		"dummy.numdummies=0", // the driver built in would make an interface nobody asked for
	},

	// Without what a distribution does at boot and no guest has use for, 670
	// million instructions up to pid 1 become 400 million; under emulation that
	// is a quarter of the boot.
	Distribution: {
		agentEnv,
		"cryptomgr.notests",
		"initcall_blacklist=" + strings.Join([]string{
			"jent_mod_init",                // measures the jitter of an emulated clock; random numbers have other sources
			"trace_eval_init",              // names of constants in the format files of trace events
			"crypto_kdf108_init",           // a self test
			"load_system_certificate_list", // for module signatures; our modules have none
			"damon_reclaim_init",           // a service nobody starts
		}, ","),
	},
}

// Store is a directory of kernels. Its methods may be called at the same time.
type Store struct {
	dir   string
	agent []byte // unless readAgent gets it

	readAgent   func() ([]byte, error)
	agentDigest func() string // what a pack is named after
}

// Boot is what it takes to boot a kernel.
type Boot struct {
	Kernel    dayfly.Kernel
	Vmlinux   string // an uncompressed x86-64 ELF kernel with a PVH entry
	Initramfs string // a cpio archive whose /init is the agent

	// Cmdline holds the parameters this kernel needs. With acpi=off the kernel
	// finds its devices by virtio_mmio.device= and wants a machine without
	// ACPI; otherwise only ACPI tells it of them. With lapic_timer_khz= it needs
	// neither PIC nor PIT.
	Cmdline []string

	// Older: a tuned kernel that another release's recipe made.
	Older bool
}

// Open makes dir a store if it is not one yet and removes what killed
// processes left. agent is the static guest binary that becomes /init; it is
// not copied and must not change.
func Open(dir string, agent []byte) (*Store, error) {
	return (&Store{
		dir: dir, agent: agent,
		readAgent: func() ([]byte, error) { return agent, nil },
		// Hashing a 10 MB agent takes 5 ms or more: once, and only if asked.
		agentDigest: sync.OnceValue(func() string {
			sum := sha256.Sum256(agent)
			return hex.EncodeToString(sum[:])
		}),
	}).open()
}

// Agent is a guest binary that is read only where an initramfs must be packed,
// which is rarely: reading 10 MB takes longer than all else Boot does.
type Agent struct {
	ID   string // changes whenever the binary does
	Read func() ([]byte, error)
}

// OpenAgent is Open for an agent that has an identity already.
func OpenAgent(dir string, a Agent) (*Store, error) {
	return (&Store{dir: dir, readAgent: a.Read, agentDigest: func() string { return a.ID }}).open()
}

func (s *Store) open() (*Store, error) {
	for _, d := range []string{s.kernels(), s.packs(), s.temp()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("kernel: store: %w", err)
		}
	}
	if err := s.sweep(); err != nil {
		return nil, fmt.Errorf("kernel: sweep: %w", err)
	}
	return s, nil
}

func (s *Store) kernels() string { return filepath.Join(s.dir, "kernels") }
func (s *Store) packs() string   { return filepath.Join(s.dir, "packs") }
func (s *Store) temp() string    { return filepath.Join(s.dir, "tmp") }

// List returns the kernels of the store, the preferred one first.
func (s *Store) List(ctx context.Context) ([]dayfly.Kernel, error) {
	recs, err := s.records(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]dayfly.Kernel, 0, len(recs))
	for _, r := range recs {
		list = append(list, r.Kernel)
	}
	return list, nil
}

// Boot returns what it takes to boot the kernel with an id or, failing that, a
// release; "" means the preferred one: the newest tuned kernel, else the newest
// of the distribution. It packs the initramfs the first time. The error is
// NotFound where there is no such kernel.
func (s *Store) Boot(ctx context.Context, id string) (Boot, error) {
	rec, err := s.find(ctx, id)
	if err != nil {
		return Boot{}, err
	}
	initramfs, err := s.pack(ctx, rec)
	if err != nil {
		return Boot{}, fmt.Errorf("kernel: initramfs: %w", err)
	}
	return Boot{
		Kernel:    rec.Kernel,
		Vmlinux:   filepath.Join(s.kernels(), rec.ID, vmlinuxName),
		Initramfs: initramfs,
		Cmdline:   slices.Concat(cmdlines[rec.Flavour], rec.Cmdline),
		Older:     rec.Recipe != "" && rec.Recipe != recipe(),
	}, nil
}

func (s *Store) find(ctx context.Context, id string) (record, error) {
	recs, err := s.records(ctx)
	if err != nil {
		return record{}, err
	}
	if len(recs) == 0 {
		return record{}, dayfly.Errorf(dayfly.NotFound, "kernel: none here yet: import Debian's package linux-image-cloud-amd64 "+
			"with \"dayfly kernel import FILE.deb\", or compile one with \"dayfly kernel build\"")
	}
	if id == "" {
		return recs[0], nil
	}
	for _, r := range recs {
		if r.ID == id {
			return r, nil
		}
	}
	for _, r := range recs {
		if r.Release == id {
			return r, nil
		}
	}
	return record{}, dayfly.Errorf(dayfly.NotFound, "kernel: %q is not here: \"dayfly kernel ls\" shows those that are", id)
}
