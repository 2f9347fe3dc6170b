// Package template keeps base templates: booted, empty machines, saved once and
// begun from many times.
//
//	Store.Make ──► a directory under its key ──► Store.Get: memory, state ──► …
//	   build          committed by rename              Close       Prune, or too old
//
// A base template serves every image, as it has neither root nor disk. One whose
// Key names an image has that image's root and an empty disk of one size mounted
// and serves only workspaces of that kind, which it starts in half the time. Both
// serve every caller, having neither a key nor an identity that is anybody's:
// whoever builds one puts no secret in. A template serves only machines that are
// the same in all that its Key says; one change there is another template. It is checked by its digest when it is made
// and when Verify is asked for, not on the way of a start. Its memory is a file
// that is never written again, so that machines may have it mapped, even while
// it is removed.
//
// The store knows no VMM: what a template is made of comes from its caller.
// docs/formats/template.md describes the files.
package template

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/flock"
)

// version is that of template.json, and of how a template is made: raising it
// leaves all there are unused.
const version = 1

// Names in a template's directory.
const (
	memoryFile = "memory"
	stateFile  = "state"
	diskFile   = "disk" // only where the key names an image
	infoFile   = "template.json"
)

// Key is everything that a saved machine depends on.
type Key struct {
	VMM        string       `json:"vmm"`
	VMMVersion string       `json:"vmm_version"`
	Accel      dayfly.Accel `json:"accel"`
	CPUModel   string       `json:"cpu_model"` // what the guest sees of the host's processor
	Kernel     string       `json:"kernel"`
	Initramfs  string       `json:"initramfs"` // changes with its content
	Cmdline    []string     `json:"cmdline"`
	CPUs       int          `json:"cpus"`
	MemoryMiB  int          `json:"memory_mib"`
	Devices    string       `json:"devices"` // changes with the set of devices

	Image   string `json:"image,omitempty"`    // digest, of a template that has a root
	DiskMiB int    `json:"disk_mib,omitempty"` // size of its disk
}

// ID names the template of a key: the beginning of the key's SHA-256.
func (k Key) ID() string {
	b, err := json.Marshal(struct {
		Version int `json:"version"`
		Key
	}{version, k})
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}

// info is template.json.
type info struct {
	Version int       `json:"version"`
	Key     Key       `json:"key"`
	Digest  string    `json:"digest"`
	Bytes   int64     `json:"bytes"` // on the disk
	MadeAt  time.Time `json:"made_at"`
}

// Template is one that is open. The file of its memory stays readable until
// Close, also when the template is removed meanwhile.
type Template struct {
	ID     string
	Key    Key
	Memory *os.File
	Parts
}

// Parts are what a template has beside its memory.
type Parts struct {
	State []byte // of the machine
	Disk  []byte // what its disk held, decrypted; only where the key names an image
}

// Close lets go of the memory. It may be called on nil.
func (t *Template) Close() error {
	if t == nil {
		return nil
	}
	return t.Memory.Close()
}

// Limits bound a store. What was used longest ago goes first.
type Limits struct {
	Count int   // templates; default 16
	Bytes int64 // on the disk; default 8 GiB
}

// Store is a directory of templates. Its methods may be called at the same
// time, also by several processes.
type Store struct {
	dir    string
	limits Limits
}

// Open makes dir a store if it is not one yet, and removes what killed
// processes left there.
func Open(dir string, l Limits) (*Store, error) {
	if l.Count == 0 {
		l.Count = 16
	}
	if l.Bytes == 0 {
		l.Bytes = 8 << 30
	}
	for _, d := range []string{dir, filepath.Join(dir, "locks"), filepath.Join(dir, "wanted")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("template: store: %w", err)
		}
	}
	s := &Store{dir: dir, limits: l}
	return s, s.sweep()
}

// Has reports whether there is a template of the key, without opening it.
func (s *Store) Has(k Key) bool {
	_, err := os.Lstat(filepath.Join(s.dir, k.ID(), infoFile))
	return err == nil
}

// Get opens the template of a key. The error is NotFound where there is none.
func (s *Store) Get(k Key) (*Template, error) {
	dir := filepath.Join(s.dir, k.ID())
	if _, err := readInfo(dir); err != nil {
		return nil, err
	}
	parts, err := readParts(dir, k)
	if err != nil {
		return nil, err
	}
	memory, err := os.Open(filepath.Join(dir, memoryFile))
	if err != nil {
		return nil, fmt.Errorf("template: %w", err)
	}
	now := time.Now()
	_ = os.Chtimes(dir, now, now) // used last now; a store that cannot be written still serves
	return &Template{ID: k.ID(), Key: k, Memory: memory, Parts: parts}, nil
}

func readParts(dir string, k Key) (p Parts, err error) {
	p.State, err = os.ReadFile(filepath.Join(dir, stateFile))
	if err == nil && k.Image != "" {
		p.Disk, err = os.ReadFile(filepath.Join(dir, diskFile))
	}
	if err != nil {
		err = fmt.Errorf("template: %w", err)
	}
	return p, err
}

func readInfo(dir string) (info, error) {
	var in info
	b, err := os.ReadFile(filepath.Join(dir, infoFile))
	if errors.Is(err, fs.ErrNotExist) {
		return in, dayfly.Errorf(dayfly.NotFound, "there is no such template yet")
	}
	if err != nil {
		return in, fmt.Errorf("template: %w", err)
	}
	if err := json.Unmarshal(b, &in); err != nil {
		return in, fmt.Errorf("template: %s: %w", infoFile, err)
	}
	if in.Version != version || in.Key.ID() != filepath.Base(dir) {
		return in, dayfly.Errorf(dayfly.NotFound, "the template is of another release, or damaged")
	}
	return in, nil
}

// Builder makes a machine, puts its RAM into memory, an empty file of the right
// size, and ends it.
type Builder func(ctx context.Context, memory *os.File) (Parts, error)

// Make returns the template of a key and has it built if there is none. Of
// several that ask for one at once, also from other processes, one builds it
// and the others wait.
func (s *Store) Make(ctx context.Context, k Key, build Builder) (*Template, error) {
	if t, err := s.Get(k); dayfly.KindOf(err) != dayfly.NotFound {
		return t, err
	}
	unlock, err := s.lock(ctx, k.ID())
	if err != nil {
		return nil, err
	}
	defer unlock()
	if t, err := s.Get(k); dayfly.KindOf(err) != dayfly.NotFound {
		return t, err
	}
	if err := s.make(ctx, k, build); err != nil {
		return nil, err
	}
	if err := s.evict(k.ID()); err != nil {
		return nil, err
	}
	return s.Get(k)
}

// lock waits until nobody else builds the template.
func (s *Store) lock(ctx context.Context, id string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(s.dir, "locks", id), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("template: lock: %w", err)
	}
	err = flock.Within(ctx, flock.Forever, func() error { return flock.Try(f, unix.LOCK_EX) })
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("template: lock: %w", err)
	}
	return func() { _ = f.Close() }, nil
}

// tempMark begins the name of a template in the making. It goes on with the id,
// whose lock its maker holds.
const tempMark = ".new-"

func (s *Store) make(ctx context.Context, k Key, build Builder) (err error) {
	tmp := filepath.Join(s.dir, tempMark+k.ID())
	if err := errors.Join(os.RemoveAll(tmp), os.Mkdir(tmp, 0o700)); err != nil {
		return makeError(err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	memory, err := os.OpenFile(filepath.Join(tmp, memoryFile), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return makeError(err)
	}
	defer memory.Close()
	if err := memory.Truncate(int64(k.MemoryMiB) << 20); err != nil {
		return makeError(err)
	}
	parts, err := build(ctx, memory)
	if err != nil {
		return fullOr(err)
	}
	if err := s.seal(tmp, k, memory, parts); err != nil {
		return makeError(err)
	}
	if err := os.Rename(tmp, filepath.Join(s.dir, k.ID())); err != nil {
		return makeError(err)
	}
	return syncPath(s.dir)
}

// seal writes what belongs to the memory and makes all of it durable.
func (s *Store) seal(dir string, k Key, memory *os.File, p Parts) error {
	files := []string{stateFile, infoFile}
	if err := os.WriteFile(filepath.Join(dir, stateFile), p.State, 0o400); err != nil {
		return err
	}
	if k.Image != "" {
		files = append(files, diskFile)
		if err := os.WriteFile(filepath.Join(dir, diskFile), p.Disk, 0o400); err != nil {
			return err
		}
	}
	if k.Image == "" {
		p.Disk = nil // it is not kept
	}
	digest, err := digest(memory, p)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(memory.Fd()), &st); err != nil {
		return err
	}
	in, err := json.MarshalIndent(info{version, k, digest, st.Blocks*512 + int64(len(p.State)+len(p.Disk)), time.Now().UTC()}, "", "\t")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, infoFile), in, 0o400); err != nil {
		return err
	}
	if err := errors.Join(memory.Chmod(0o400), memory.Sync()); err != nil {
		return err
	}
	for _, name := range files {
		if err := syncPath(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return syncPath(dir)
}

func makeError(err error) error { return fullOr(fmt.Errorf("template: %w", err)) }

// fullOr is err, in the words of a full disk if it is about one.
func fullOr(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return &dayfly.Error{Kind: dayfly.Exhausted, Msg: "no space left on this host for a template: dayfly system prune, or enlarge the state directory's file system", Err: err}
	}
	return err
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
