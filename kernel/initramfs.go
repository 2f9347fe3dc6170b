package kernel

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	packVersion = 2 // of what pack writes; part of a pack's name
	keptPacks   = 4 // per kernel: agents of other versions may be in use beside this one
)

// pack returns the path of the initramfs for a kernel and the store's agent,
// and makes it if it is not there. Two processes that make the same one write
// the same bytes, so that either rename is right.
func (s *Store) pack(ctx context.Context, rec record) (string, error) {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %s %s", packVersion, rec.ID, s.agentDigest()))
	path := filepath.Join(s.packs(), rec.ID+"-"+hex.EncodeToString(sum[:8])+".cpio")
	now := time.Now()
	if err := os.Chtimes(path, now, now); err == nil { // in use: see prune
		return path, nil
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	j, err := s.newJob("pack")
	if err != nil {
		return "", err
	}
	defer j.remove()
	agent, err := s.readAgent()
	if err != nil {
		return "", err
	}
	made := j.path("initramfs")
	err = writeWith(made, func(w io.Writer) error {
		return writeInitramfs(w, agent, filepath.Join(s.kernels(), rec.ID, modulesDir), rec.Modules)
	})
	if err != nil {
		return "", err
	}
	if err := publish(made, path); err != nil {
		return "", err
	}
	return path, s.prune(rec.ID)
}

// prune removes the packs of a kernel that were used longest ago, which is
// what upgrades of the agent leave behind.
func (s *Store) prune(id string) error {
	all, err := os.ReadDir(s.packs())
	if err != nil {
		return err
	}
	var own []fs.FileInfo
	for _, d := range all {
		// The digest after the id has no dash: another id that begins like this one is not ours.
		rest, ok := strings.CutPrefix(d.Name(), id+"-")
		if fi, err := d.Info(); ok && err == nil && !strings.Contains(rest, "-") {
			own = append(own, fi)
		}
	}
	slices.SortFunc(own, func(a, b fs.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	for _, fi := range own[min(keptPacks, len(own)):] {
		if err := os.Remove(filepath.Join(s.packs(), fi.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// writeInitramfs writes the archive that the agent finds itself in: see
// docs/formats/kernel-store.md. It is not compressed: the host has it in its
// page cache, and unpacking would cost the guest time.
func writeInitramfs(w io.Writer, agent []byte, modules string, names []string) error {
	c := &newc{w: w}
	for _, d := range []string{"dev", "proc", "sys", "new", "modules"} {
		c.add(node{name: d, mode: modeDir | 0o755})
	}
	c.add(node{name: "dev/console", mode: modeChar | 0o600, major: 5, minor: 1})
	// A kernel without a console driver starts init without standard files, and
	// Go's runtime then dies unless it can open this in their place.
	c.add(node{name: "dev/null", mode: modeChar | 0o666, major: 1, minor: 3})
	c.add(node{name: "init", mode: modeFile | 0o755, data: agent})
	var list strings.Builder
	for _, n := range names {
		ko, err := os.ReadFile(filepath.Join(modules, n))
		if err != nil {
			return err
		}
		c.add(node{name: "modules/" + n, mode: modeFile | 0o644, data: ko})
		fmt.Fprintf(&list, "/modules/%s\n", n)
	}
	c.add(node{name: "modules.load", mode: modeFile | 0o644, data: []byte(list.String())})
	return c.close()
}

// newc writes a cpio archive in the one format that Linux unpacks:
// https://docs.kernel.org/driver-api/early-userspace/buffer-format.html
// The cpio library has no device numbers, hence this.
type newc struct {
	w   io.Writer
	ino int
	err error
}

// node is one member. Owner is root, time is 1970: equal input, equal bytes.
type node struct {
	name         string
	mode         uint32
	data         []byte
	major, minor int
}

// File types: include/uapi/linux/stat.h.
const (
	modeChar = 0o020000
	modeDir  = 0o040000
	modeFile = 0o100000
)

func (c *newc) add(n node) {
	c.ino++
	c.write(fmt.Appendf(nil, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		c.ino, n.mode, 0, 0, 1, 0, len(n.data), 0, 0, n.major, n.minor, len(n.name)+1, 0, n.name))
	c.write(n.data)
}

// write pads to 4 bytes, as headers and contents alike are.
func (c *newc) write(b []byte) {
	if c.err == nil {
		_, c.err = c.w.Write(b)
	}
	if pad := -len(b) & 3; pad > 0 && c.err == nil {
		_, c.err = c.w.Write(make([]byte, pad))
	}
}

func (c *newc) close() error {
	c.add(node{name: "TRAILER!!!"})
	return c.err
}
