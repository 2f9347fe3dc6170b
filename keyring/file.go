package keyring

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/dayfly/dayfly"
)

const tempSuffix = ".tmp"

// writeNew makes path with that content, mode 0600, so that it is whole and
// durable or not there at all, even when two processes try at once: the one
// that comes second gets fs.ErrExist. A link does what a rename would, and
// refuses to replace.
func writeNew(path string, content []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, tempPrefix(path)+"*"+tempSuffix) // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // it has a second name by then, or no use
	if err := writeSync(f, content); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	if err := os.Remove(f.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, os.Remove(path))
	}
	return syncDir(dir)
}

func writeSync(f *os.File, content []byte) error {
	_, err := f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// tempPrefix begins the names of path's unfinished files.
func tempPrefix(path string) string { return "." + filepath.Base(path) + "." }

// temps lists what processes that were killed while writing path left.
func temps(path string) []string {
	entries, _ := os.ReadDir(filepath.Dir(path))
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tempPrefix(path)) && strings.HasSuffix(e.Name(), tempSuffix) {
			names = append(names, filepath.Join(filepath.Dir(path), e.Name()))
		}
	}
	return names
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// readBounded reads a file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("larger than %d bytes: %w", limit, ErrCorrupted)
	}
	return b, err
}

func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

func writeError(what string, err error) error {
	if isFull(err) {
		return &dayfly.Error{Kind: dayfly.Exhausted, Msg: "no space left to write " + what + ": free some in the state directory", Err: err}
	}
	return &dayfly.Error{Kind: dayfly.Internal, Msg: what + " cannot be written: see the log", Err: err}
}
