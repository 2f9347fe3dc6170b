// Package image turns OCI images into read-only root file systems: pulled from
// a registry, imported from an archive or a layout, or built from Debian
// packages, every image ends as one ext4 file, named by its manifest's digest.
//
//	Pull ───┐
//	Import ─┼─► verified layers ─► private tree ─► mke2fs ─► rootfs/<digest>.ext4 ─► Lease
//	Build ──┘   (package layer)
//
// It leaves to others what is done with the file. Any number of processes may
// use one store directory. Always true: a file under rootfs/ is complete, was
// made of content whose digests were checked, and never changes; it is made
// once, however many ask for it at the same time; one that is leased stays;
// whatever a killed process left behind is found by Sweep and belongs to
// nobody. docs/formats/image-store.md describes the directory.
package image

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/dayfly/dayfly"
)

// Options are what a Store is opened with.
type Options struct {
	Limits    Limits            // a zero field stands for its default
	Log       *slog.Logger      // default: nothing is logged
	Keychain  authn.Keychain    // credentials of registries; default: Docker's configuration
	Transport http.RoundTripper // to registries; default: one with the usual timeouts and proxies
}

// Store is a directory of images. Its methods may be called at the same time,
// also from several processes.
type Store struct {
	dir       string
	limits    Limits
	log       *slog.Logger
	keychain  authn.Keychain
	transport http.RoundTripper
	wide      int // entries of a directory from which on the kernel fills it
}

// formatVersion is that of docs/formats/image-store.md.
const formatVersion = "1"

// The parts of the directory.
const (
	namesDir     = "names"     // <sha256 of the key>.json: a name and what it stands for
	manifestsDir = "manifests" // <digest>.json
	configsDir   = "configs"   // <digest of the manifest>.json
	rootfsDir    = "rootfs"    // <digest>.ext4
	locksDir     = "locks"     // <digest>: who builds or removes
	tempDir      = "tmp"       // <random>/ and <random>.lock: work under way
)

// Open opens the store in dir and makes what is missing of it. A store of a
// later format is a Conflict.
func Open(dir string, o Options) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("image: open store: %w", err)
	}
	s := &Store{
		dir: dir, limits: o.Limits.Normal(), log: o.Log,
		keychain: o.Keychain, transport: o.Transport, wide: wideDir,
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.keychain == nil {
		s.keychain = authn.DefaultKeychain
	}
	for _, sub := range []string{"", namesDir, manifestsDir, configsDir, rootfsDir, locksDir, tempDir} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, s.hostError("open the image store", err)
		}
	}
	return s, s.checkVersion()
}

func (s *Store) checkVersion() error {
	file := filepath.Join(s.dir, "version")
	b, err := os.ReadFile(file)
	switch v := strings.TrimSpace(string(b)); {
	case errors.Is(err, fs.ErrNotExist):
		return s.hostError("open the image store", s.write(file, []byte(formatVersion+"\n")))
	case err != nil:
		return s.hostError("open the image store", err)
	case v != formatVersion:
		return dayfly.Errorf(dayfly.Conflict, "the image store has format %q and this version of dayfly knows %s: "+
			"use the version that made it, or another state directory", v, formatVersion)
	}
	return nil
}

func (s *Store) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

func (s *Store) rootfs(hex string) string { return s.path(rootfsDir, hex+".ext4") }
