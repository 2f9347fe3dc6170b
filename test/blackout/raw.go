package blackout

import (
	"maps"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// What follows is called by the kernel: see fuse.RawFileSystem.

func (t *tree) String() string { return "blackout" }

// entry tells the kernel of a node. It is asked for all else again.
func entry(n *node, out *fuse.EntryOut) fuse.Status {
	out.NodeId = n.ino
	n.attr(&out.Attr)
	return fuse.OK
}

func (t *tree) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.nodes[h.NodeId].names[name]
	if n == nil {
		return fuse.ENOENT
	}
	return entry(n, out)
}

func (t *tree) Forget(uint64, uint64) {} // all is kept until the end

func (t *tree) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.nodes[in.NodeId].attr(&out.Attr)
	return fuse.OK
}

func (t *tree) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.nodes[in.NodeId]
	if size, ok := in.GetSize(); ok && n.data != nil {
		if failed := t.op(nospace); failed != fuse.OK {
			return failed
		}
		n.data.truncate(int64(size))
	}
	if mode, ok := in.GetMode(); ok {
		n.mode = n.mode&syscall.S_IFMT | mode&0o7777
	}
	n.attr(&out.Attr)
	return fuse.OK
}

// make is an op that gives a new node a name.
func (t *tree) make(dir uint64, name string, mode uint32) (*node, fuse.Status) {
	if t.nodes[dir].names[name] != nil {
		return nil, fuse.Status(syscall.EEXIST)
	}
	if failed := t.op(space); failed != fuse.OK {
		return nil, failed
	}
	return t.add(t.nodes[dir], name, mode), fuse.OK
}

func (t *tree) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, failed := t.make(in.NodeId, name, in.Mode)
	if failed != fuse.OK {
		return failed
	}
	return entry(n, out)
}

func (t *tree) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, failed := t.make(in.NodeId, name, syscall.S_IFDIR|in.Mode)
	if failed != fuse.OK {
		return failed
	}
	return entry(n, out)
}

func (t *tree) Symlink(_ <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, failed := t.make(h.NodeId, name, syscall.S_IFLNK|0o777)
	if failed != fuse.OK {
		return failed
	}
	n.target = target
	return entry(n, out)
}

func (t *tree) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return []byte(t.nodes[h.NodeId].target), fuse.OK
}

func (t *tree) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, failed := t.make(in.NodeId, name, syscall.S_IFREG|in.Mode&0o7777)
	if failed != fuse.OK {
		return failed
	}
	return entry(n, &out.EntryOut)
}

func (t *tree) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	dir, n := t.nodes[in.NodeId], t.nodes[in.Oldnodeid]
	if dir.names[name] != nil {
		return fuse.Status(syscall.EEXIST)
	}
	if failed := t.op(space); failed != fuse.OK {
		return failed
	}
	dir.put(name, n)
	return entry(n, out)
}

func (t *tree) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return t.remove(h.NodeId, name)
}

func (t *tree) Rmdir(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return t.remove(h.NodeId, name)
}

func (t *tree) remove(in uint64, name string) fuse.Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	dir := t.nodes[in]
	switch n := dir.names[name]; {
	case n == nil:
		return fuse.ENOENT
	case len(n.names) > 0:
		return fuse.Status(syscall.ENOTEMPTY)
	}
	if failed := t.op(nospace); failed != fuse.OK {
		return failed
	}
	dir.drop(name)
	return fuse.OK
}

func (t *tree) Rename(_ <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	from, to := t.nodes[in.NodeId], t.nodes[in.Newdir]
	n, there := from.names[oldName], to.names[newName]
	switch {
	case n == nil:
		return fuse.ENOENT
	case in.Flags&^unix.RENAME_NOREPLACE != 0:
		return fuse.EINVAL
	case there != nil && in.Flags&unix.RENAME_NOREPLACE != 0:
		return fuse.Status(syscall.EEXIST)
	case there == n:
		return fuse.OK
	case there != nil && len(there.names) > 0:
		return fuse.Status(syscall.ENOTEMPTY)
	}
	if failed := t.op(nospace); failed != fuse.OK {
		return failed
	}
	if there != nil {
		to.drop(newName)
	}
	from.drop(oldName)
	to.put(newName, n)
	return fuse.OK
}

func (t *tree) Open(_ <-chan struct{}, in *fuse.OpenIn, _ *fuse.OpenOut) fuse.Status {
	if in.Flags&syscall.O_TRUNC == 0 {
		return fuse.OK
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if failed := t.op(nospace); failed != fuse.OK {
		return failed
	}
	t.nodes[in.NodeId].data.truncate(0)
	return fuse.OK
}

func (t *tree) Read(_ <-chan struct{}, in *fuse.ReadIn, b []byte) (fuse.ReadResult, fuse.Status) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.nodes[in.NodeId].data.read(b, int64(in.Offset))
	return fuse.ReadResultData(b[:n]), fuse.OK
}

func (t *tree) Write(_ <-chan struct{}, in *fuse.WriteIn, b []byte) (uint32, fuse.Status) {
	t.mu.Lock()
	defer t.mu.Unlock()
	failed := t.op(space)
	if failed != fuse.OK {
		b = b[:len(b)/2] // full disks take a part
	}
	n := t.nodes[in.NodeId]
	if !(failed != fuse.OK && t.plan.Going && t.ops > t.plan.At) {
		n.data.write(b, int64(in.Offset))
	}
	return uint32(len(b)), failed
}

func (t *tree) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	off, ok := t.nodes[in.NodeId].data.seek(int64(in.Offset), in.Whence == unix.SEEK_HOLE)
	if !ok {
		return fuse.Status(syscall.ENXIO)
	}
	out.Offset = uint64(off)
	return fuse.OK
}

func (t *tree) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	if failed := t.op(space); failed != fuse.OK {
		return failed
	}
	c, off, length := t.nodes[in.NodeId].data, int64(in.Offset), int64(in.Length)
	if in.Mode&unix.FALLOC_FL_KEEP_SIZE == 0 {
		c.size = max(c.size, off+length)
	}
	if in.Mode&(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_ZERO_RANGE) != 0 {
		c.punch(off, length)
	}
	return fuse.OK
}

func (t *tree) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.OK }

func (t *tree) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status { return t.fsync(in) }

func (t *tree) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status { return t.fsync(in) }

func (t *tree) fsync(in *fuse.FsyncIn) fuse.Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	if failed := t.op(nospace); failed != fuse.OK {
		return failed
	}
	t.nodes[in.NodeId].sync()
	return fuse.OK
}

func (t *tree) OpenDir(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.OK }

func (t *tree) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	dir := t.nodes[in.NodeId]
	names := slices.Sorted(maps.Keys(dir.names))
	for i, name := range names {
		if uint64(i) < in.Offset {
			continue
		}
		n := dir.names[name]
		if !out.AddDirEntry(fuse.DirEntry{Name: name, Mode: n.mode, Ino: n.ino, Off: uint64(i) + 1}) {
			break
		}
	}
	return fuse.OK
}

func (t *tree) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	const blocks = 1 << 24
	*out = fuse.StatfsOut{Blocks: blocks, Bfree: blocks, Bavail: blocks, Files: blocks, Ffree: blocks, Bsize: pageSize, Frsize: pageSize, NameLen: 255}
	return fuse.OK
}
