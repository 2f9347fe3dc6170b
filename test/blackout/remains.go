package blackout

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
)

// Aftermath says what survives a power cut of what was not synced.
type Aftermath string

// The aftermaths.
const (
	OnlySynced   Aftermath = "only what was synced"
	NamesAlone   Aftermath = "names without content"
	ContentAlone Aftermath = "content without names"
	OneHalf      Aftermath = "one half" // of the files, and of the directories
	OtherHalf    Aftermath = "the other half"
	Everything   Aftermath = "everything" // as if only the process had died
)

// Aftermaths are all of them.
func Aftermaths() []Aftermath {
	return []Aftermath{OnlySynced, NamesAlone, ContentAlone, OneHalf, OtherHalf, Everything}
}

// keeps says of a directory, or of a file, whether it is as it was last, and not as
// it was when it was synced last.
func (a Aftermath) keeps(n *node) bool {
	switch a {
	case NamesAlone:
		return n.isDir()
	case ContentAlone:
		return !n.isDir()
	case OneHalf:
		return n.ino%2 == 0
	case OtherHalf:
		return n.ino%2 == 1
	case Everything:
		return true
	}
	return false
}

type remains struct {
	Aftermath
	made map[*node]string // files, and where they are
}

func (r *remains) dir(n *node, to string) error {
	names := n.kept.names
	if r.keeps(n) {
		names = n.names
	}
	for name, child := range names {
		if err := r.make(child, filepath.Join(to, name)); err != nil {
			return err
		}
	}
	return nil
}

func (r *remains) make(n *node, to string) error {
	if n.isDir() {
		if r.made[n] != "" { // it has moved, and both of its places survive: the first that was found has it
			return nil
		}
		r.made[n] = to
		if err := os.Mkdir(to, os.FileMode(n.mode&0o777)); err != nil {
			return err
		}
		return r.dir(n, to)
	}
	if there := r.made[n]; there != "" {
		return os.Link(there, to)
	}
	r.made[n] = to
	switch n.mode & syscall.S_IFMT {
	case syscall.S_IFLNK:
		return os.Symlink(n.target, to)
	case syscall.S_IFREG:
		c := n.kept.data
		if r.keeps(n) {
			c = n.data
		}
		return c.clone().save(to, os.FileMode(n.mode&0o777))
	}
	return syscall.Mknod(to, n.mode, 0)
}

func (c *content) save(path string, mode os.FileMode) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for _, n := range c.data() {
		if _, err := f.WriteAt(c.pages[n][:], n*pageSize); err != nil {
			return err
		}
	}
	return f.Truncate(c.size)
}
