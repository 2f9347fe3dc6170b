package template

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/flock"
)

// Usage is how many templates there are and what they take on the disk.
func (s *Store) Usage() (count int, bytes int64, err error) {
	ids, err := s.ids()
	if err != nil {
		return 0, 0, err
	}
	for _, id := range ids {
		if in, err := readInfo(filepath.Join(s.dir, id)); err == nil {
			bytes += in.Bytes
		}
	}
	return len(ids), bytes, nil
}

// maxWanted bounds what is noted of templates that there are not.
const maxWanted = 512

// Wanted notes that the template of a key would have been of use, and reports
// whether that had been noted before: what is started once only needs none.
func (s *Store) Wanted(k Key) (again bool) {
	dir := filepath.Join(s.dir, "wanted")
	path := filepath.Join(dir, k.ID())
	if ents, err := os.ReadDir(dir); err == nil && len(ents) > maxWanted {
		_ = os.RemoveAll(dir) // what is started often will be noted again
		_ = os.Mkdir(dir, 0o700)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return errors.Is(err, fs.ErrExist)
	}
	_ = f.Close()
	return false
}

// Unwanted takes back what Wanted noted: the template could not be made.
func (s *Store) Unwanted(k Key) { _ = os.Remove(filepath.Join(s.dir, "wanted", k.ID())) }

// Prune removes all templates. Machines that began from one are not affected.
func (s *Store) Prune() error { return s.Drop(func(Key) bool { return true }) }

// Drop removes the templates whose key is unwanted, and those that have none.
func (s *Store) Drop(unwanted func(Key) bool) error {
	ids, err := s.ids()
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range ids {
		if in, err := readInfo(filepath.Join(s.dir, id)); err != nil || unwanted(in.Key) {
			errs = append(errs, s.remove(id))
		}
	}
	return errors.Join(errs...)
}

// evict removes what is beyond the limits, but never keep.
func (s *Store) evict(keep string) error {
	ids, err := s.ids() // the one used longest ago first
	if err != nil {
		return err
	}
	count, bytes, err := s.Usage()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if count <= s.limits.Count && bytes <= s.limits.Bytes {
			return nil
		}
		if id == keep {
			continue
		}
		in, _ := readInfo(filepath.Join(s.dir, id))
		if err := s.remove(id); err != nil {
			return err
		}
		count, bytes = count-1, bytes-in.Bytes
	}
	return nil
}

// remove takes a template out of sight at once and then off the disk.
func (s *Store) remove(id string) error {
	gone := filepath.Join(s.dir, goneMark+id)
	if err := os.RemoveAll(gone); err != nil {
		return fmt.Errorf("template: remove: %w", err)
	}
	if err := os.Rename(filepath.Join(s.dir, id), gone); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("template: remove: %w", err)
	}
	if err := os.RemoveAll(gone); err != nil {
		return fmt.Errorf("template: remove: %w", err)
	}
	return nil
}

// goneMark begins the name of a template that is being removed.
const goneMark = ".gone-"

// ids lists the templates, the one used longest ago first.
func (s *Store) ids() ([]string, error) {
	ents, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("template: %w", err)
	}
	used := map[string]time.Time{}
	var ids []string
	for _, e := range ents {
		if len(e.Name()) != 2*16 || !e.IsDir() {
			continue
		}
		if fi, err := e.Info(); err == nil {
			used[e.Name()] = fi.ModTime()
			ids = append(ids, e.Name())
		}
	}
	slices.SortFunc(ids, func(a, b string) int { return used[a].Compare(used[b]) })
	return ids, nil
}

// sweep removes templates that nobody is making any more.
func (s *Store) sweep() error {
	ents, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("template: %w", err)
	}
	for _, e := range ents {
		id, making := strings.CutPrefix(e.Name(), tempMark)
		if !making && !strings.HasPrefix(e.Name(), goneMark) {
			continue
		}
		if making && !s.abandoned(id) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(s.dir, e.Name())); err != nil {
			return fmt.Errorf("template: sweep: %w", err)
		}
	}
	return nil
}

// abandoned reports whether the maker of a template is gone.
func (s *Store) abandoned(id string) bool {
	f, err := os.OpenFile(filepath.Join(s.dir, "locks", id), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return false
	}
	defer f.Close()
	return flock.Try(f, unix.LOCK_EX) == nil
}
