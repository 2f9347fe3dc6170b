package blackout

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// tree is a file system.
type tree struct {
	fuse.RawFileSystem // what is not here is not there

	mu    sync.Mutex
	nodes map[uint64]*node
	ops   int
	plan  Plan
	hit   bool
}

func newTree() *tree {
	root := &node{ino: fuse.FUSE_ROOT_ID, mode: syscall.S_IFDIR | 0o700, links: 2, names: map[string]*node{}}
	return &tree{RawFileSystem: fuse.NewDefaultRawFileSystem(), nodes: map[uint64]*node{root.ino: root}}
}

// takes says what an op takes.
type takes bool

const (
	space   takes = true
	nospace takes = false
)

// op counts an op and says whether it fails.
func (t *tree) op(what takes) fuse.Status {
	t.ops++
	p := t.plan
	switch {
	case p.At == 0 || t.ops < p.At, t.hit && !p.Going:
	case p.Err == syscall.ENOSPC && what == nospace:
	case p.Err != syscall.ENOSPC && !p.Going && t.ops > p.At:
	default:
		t.hit = true
		return fuse.Status(p.Err)
	}
	return fuse.OK
}

func (t *tree) settle() {
	for _, n := range t.nodes {
		n.sync()
	}
}

func (t *tree) loadAll(from string) error {
	seen := map[uint64]*node{}
	err := filepath.Walk(from, func(path string, info os.FileInfo, err error) error {
		if err != nil || path == from {
			return err
		}
		return t.load(seen, from, path, info)
	})
	t.settle()
	return err
}

func (t *tree) load(seen map[uint64]*node, from, path string, info os.FileInfo) error {
	rel, err := filepath.Rel(from, filepath.Dir(path))
	if err != nil {
		return err
	}
	dir := t.find(rel)
	sys, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s has no inode", path)
	}
	if n := seen[sys.Ino]; n != nil {
		dir.put(info.Name(), n)
		return nil
	}
	n := t.add(dir, info.Name(), sys.Mode)
	seen[sys.Ino] = n
	switch {
	case info.Mode().IsRegular():
		return n.fill(path)
	case info.Mode()&os.ModeSymlink != 0:
		n.target, err = os.Readlink(path)
	}
	return err
}

// node is a file, a directory or a symbolic link.
type node struct {
	ino    uint64
	mode   uint32
	links  uint32
	mtime  time.Time
	data   *content         // of a file
	names  map[string]*node // of a directory
	target string           // of a symbolic link

	kept struct { // what was synced
		data  *content
		names map[string]*node
	}
}

func (n *node) isDir() bool { return n.mode&syscall.S_IFMT == syscall.S_IFDIR }

func (n *node) sync() {
	if n.isDir() {
		n.kept.names = maps.Clone(n.names)
	} else {
		n.kept.data = n.data.clone()
	}
}

// put gives n a name in a directory.
func (n *node) put(name string, child *node) {
	n.names[name] = child
	n.mtime = time.Now()
	if child.isDir() {
		n.links++
	} else {
		child.links++
	}
}

// drop takes a name out of a directory.
func (n *node) drop(name string) {
	child := n.names[name]
	delete(n.names, name)
	n.mtime = time.Now()
	if child.isDir() {
		n.links--
	} else {
		child.links--
	}
}

// fill reads a file of another file system, but for its holes.
func (n *node) fill(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, pageSize)
	for off := int64(0); ; off += pageSize {
		next, err := f.Seek(off, 3) // SEEK_DATA
		if errors.Is(err, syscall.ENXIO) {
			break
		} else if err != nil {
			return err
		}
		off = next / pageSize * pageSize
		got, err := f.ReadAt(b, off)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		n.data.write(b[:got], off)
	}
	st, err := f.Stat()
	if err == nil {
		n.data.truncate(st.Size())
	}
	return err
}

// find returns the directory at a path below the root.
func (t *tree) find(rel string) *node {
	n := t.nodes[fuse.FUSE_ROOT_ID]
	for part := range strings.SplitSeq(filepath.ToSlash(rel), "/") {
		if part != "." && n != nil {
			n = n.names[part]
		}
	}
	return n
}

// add makes a node with a name. Numbers are never used again.
func (t *tree) add(dir *node, name string, mode uint32) *node {
	n := &node{ino: uint64(len(t.nodes)) + fuse.FUSE_ROOT_ID, mode: mode, mtime: time.Now()}
	switch mode & syscall.S_IFMT {
	case syscall.S_IFDIR:
		n.links, n.names = 2, map[string]*node{}
	case syscall.S_IFREG:
		n.data = &content{}
	}
	t.nodes[n.ino] = n
	dir.put(name, n)
	return n
}

func (n *node) attr(out *fuse.Attr) {
	*out = fuse.Attr{
		Ino: n.ino, Mode: n.mode, Nlink: n.links, Blksize: pageSize,
		Mtime: uint64(n.mtime.Unix()), Mtimensec: uint32(n.mtime.Nanosecond()),
	}
	if n.data != nil {
		out.Size = uint64(n.data.size)
		out.Blocks = uint64(len(n.data.pages)) * pageSize / 512
	}
}
