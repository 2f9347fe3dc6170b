package node

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"os"
	"path/filepath"
	"syscall"

	"github.com/dayfly/dayfly/disk"
	"github.com/dayfly/dayfly/guest/wire"
	"github.com/dayfly/dayfly/kernel"
	"github.com/dayfly/dayfly/keyring"
	"github.com/dayfly/dayfly/vmm"
)

// The sizes a restored guest believes its drives to have: as large as any can
// be, since it never learns of the real ones. The files are sparse, and the
// file systems in them know their own sizes.
const (
	rootPlaceholder = 1 << 40
	diskPlaceholder = disk.MaxSize
)

// Throw-away parts are small: what they are for is the way to them.
const (
	rehearsalRoot = 4 << 20
	rehearsalDisk = disk.MinSize
	rehearsalFile = "/bin/hello"
)

// props are a root, a disk and a key that a machine rehearses its start with
// before it has those of a workspace. Nothing in them is anybody's.
type props struct {
	dir string
	key *keyring.Key
}

// newProps makes props in dir, a directory of their own.
func newProps(ctx context.Context, dir string) (*props, error) {
	p := &props{dir: dir, key: new(keyring.Key)}
	_, _ = rand.Read(p.key[:])
	tree := filepath.Join(dir, "tree")
	if err := os.MkdirAll(filepath.Join(tree, "bin"), 0o755); err != nil {
		return nil, err
	}
	for _, d := range []string{"dev", "proc", "sys", "etc", "run", "tmp"} {
		if err := os.Mkdir(filepath.Join(tree, d), 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(filepath.Join(tree, rehearsalFile), helloELF(), 0o755); err != nil { //nolint:gosec // a program
		return nil, err
	}
	if err := disk.MakeRoot(ctx, p.root(), tree, rehearsalRoot); err != nil {
		return nil, err
	}
	if err := os.Truncate(p.root(), rootPlaceholder); err != nil {
		return nil, err
	}
	if err := disk.Create(ctx, p.disk(), rehearsalDisk, p.key, disk.Options{}); err != nil {
		return nil, err
	}
	return p, os.Truncate(p.disk(), diskPlaceholder)
}

func (p *props) root() string { return filepath.Join(p.dir, "root") }
func (p *props) disk() string { return filepath.Join(p.dir, "disk") }

func (p *props) drives() []vmm.Drive {
	return []vmm.Drive{{Path: p.root(), ReadOnly: true}, {Path: p.disk()}}
}

// init is what a workspace's agent would be told.
func (p *props) init() wire.Init {
	return wire.Init{
		ID:          "rehearsal",
		DefaultUser: "root",
		Root:        &wire.Root{Image: rootDevice, Disk: diskDevice, DiskKey: append([]byte(nil), p.key[:]...), DiskSize: rehearsalDisk},
	}
}

// helloELF is a program that writes a line, which lies behind its code, and ends.
func helloELF() []byte {
	const (
		line   = "hello\n"
		length = 4*5 + 2 + 2 + 5 + 2 // of the code below
	)
	le := binary.LittleEndian
	mov := func(b []byte, op byte, v uint32) []byte { return le.AppendUint32(append(b, op), v) }
	code := mov(nil, 0xb8, syscall.SYS_WRITE)          // mov eax
	code = mov(code, 0xbf, 1)                          // mov edi
	code = mov(code, 0xbe, kernel.ProgramEntry+length) // mov esi
	code = mov(code, 0xba, uint32(len(line)))          // mov edx
	code = append(code, 0x0f, 0x05)                    // syscall
	code = append(code, 0x31, 0xff)                    // xor edi, edi
	code = mov(code, 0xb8, syscall.SYS_EXIT_GROUP)     // mov eax
	code = append(code, 0x0f, 0x05)                    // syscall
	code = append(code, line...)
	return kernel.Program(code)
}
