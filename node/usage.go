package node

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/dayfly/dayfly"
)

// kinds are the parts of the state directory that callers know, what in them is
// one of the kind, and whether it can be made again, and so be pruned.
var kinds = []struct {
	kind, each string
	remade     bool
}{
	{"images", "rootfs/*", false},
	{"kernels", "kernels/*", false},
	{"templates", "*/template.json", true},
	{"workspaces", "*/record.json", false},
	{"snapshots", "*/generation", false},
	{"seeds", "*.seed", true},
}

// Usage says what there is on the disk, by kind. A file with several names
// counts where it is met first, and is only there to be reclaimed with the last.
func (n *Node) Usage(context.Context) ([]dayfly.Usage, error) {
	seen := map[uint64]bool{}
	list := make([]dayfly.Usage, 0, len(kinds))
	for _, k := range kinds {
		dir := filepath.Join(n.Dir, k.kind)
		each, err := filepath.Glob(filepath.Join(dir, k.each))
		if err != nil {
			return nil, err
		}
		u := dayfly.Usage{Kind: k.kind, Count: len(each)}
		err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
			if err != nil {
				if os.IsNotExist(err) {
					return nil // removed meanwhile, or never made
				}
				return err
			}
			fi, err := e.Info()
			if err != nil || !fi.Mode().IsRegular() {
				return nil //nolint:nilerr // removed meanwhile
			}
			st, ok := fi.Sys().(*syscall.Stat_t)
			if !ok || seen[st.Ino] {
				return nil
			}
			seen[st.Ino] = true
			u.Bytes += st.Blocks * 512
			return nil
		})
		if err != nil {
			return nil, err
		}
		if k.remade {
			u.Reclaimable = u.Bytes
		}
		list = append(list, u)
	}
	return list, nil
}

// Prune removes what can be made again, and returns what that gave back.
func (n *Node) Prune(ctx context.Context) ([]dayfly.Usage, error) {
	before, err := n.Usage(ctx)
	if err != nil {
		return nil, err
	}
	if err := n.templates.Prune(); err != nil {
		return nil, err
	}
	seeds, err := filepath.Glob(filepath.Join(n.Dir, "seeds", "*.seed"))
	if err != nil {
		return nil, err
	}
	for _, s := range seeds {
		if err := os.Remove(s); err != nil && !os.IsNotExist(err) {
			return nil, err
		}
	}
	after, err := n.Usage(ctx)
	if err != nil {
		return nil, err
	}
	var back []dayfly.Usage
	for i, u := range before {
		if kinds[i].remade {
			back = append(back, dayfly.Usage{Kind: u.Kind, Count: u.Count - after[i].Count, Bytes: u.Bytes - after[i].Bytes})
		}
	}
	return back, nil
}
