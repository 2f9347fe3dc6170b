package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1"

	"github.com/dayfly/dayfly"
)

// naming is how an image is found again: key is unique in the store, display
// is what the user called it.
type naming struct{ key, display string }

// record is the file of one name.
type record struct {
	Key    string `json:"key"`
	Name   string `json:"name"`
	Digest string `json:"digest"`
}

// plainName makes a word such as base a name of its own; a reference is brought
// to its full form, so that alpine and docker.io/library/alpine:latest are one.
func plainName(s string) (naming, error) {
	if s != "" && !strings.ContainsAny(s, "/:@.") {
		if _, err := name.NewTag(s); err != nil {
			return naming{}, badName(s, err)
		}
		return naming{s, s}, nil
	}
	return fullName(s)
}

// fullName is the name of what a registry has under a reference.
func fullName(s string) (naming, error) {
	ref, err := name.ParseReference(s)
	if err != nil {
		return naming{}, badName(s, err)
	}
	return naming{ref.Name(), s}, nil
}

func badName(s string, err error) error {
	return dayfly.Errorf(dayfly.Invalid, "%q is not the name of an image: use a word such as base, or a reference such as debian:13 or host/path:tag (%s)", clip(s), clip(err))
}

func (s *Store) nameFile(key string) string {
	return s.path(namesDir, sum([]byte(key))+".json")
}

// setName lets a name stand for an image, whatever it stood for before. The
// caller holds the image's lock.
func (s *Store) setName(n naming, hex string) error {
	b, err := json.Marshal(record{Key: n.key, Name: n.display, Digest: "sha256:" + hex})
	if err != nil {
		return err
	}
	return s.write(s.nameFile(n.key), append(b, '\n'))
}

func readRecord(file string) (record, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return record{}, err
	}
	var r record
	if err := json.Unmarshal(b, &r); err != nil || !isHex(strings.TrimPrefix(r.Digest, "sha256:"), sha256Hex) {
		return record{}, dayfly.Errorf(dayfly.Internal, "the image store's file %s is damaged: get the image again, which replaces it", filepath.Base(file))
	}
	return r, nil
}

func (r record) hex() string { return strings.TrimPrefix(r.Digest, "sha256:") }

// records returns every name, in order. One whose file is damaged is left out:
// it must not stand in the way of the others.
func (s *Store) records() ([]record, error) {
	files, err := filepath.Glob(s.path(namesDir, "*.json"))
	if err != nil {
		return nil, err
	}
	var all []record
	for _, file := range files {
		r, err := readRecord(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed in between
		}
		if err != nil {
			s.log.Warn("name of an image left out", "err", err)
			continue
		}
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b record) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

const (
	sha256Hex    = 64
	minHexPrefix = 4
)

// find returns the record a name, a reference or the beginning of a digest
// leads to. One found by digest has no key, and the first of its names.
func (s *Store) find(ctx context.Context, want string) (record, error) {
	if err := ctx.Err(); err != nil {
		return record{}, err
	}
	keys := []string{want}
	if n, err := fullName(want); err == nil {
		keys = append(keys, n.key)
	}
	for _, key := range keys {
		r, err := readRecord(s.nameFile(key))
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return r, err
		}
	}
	return s.findDigest(want)
}

func (s *Store) findDigest(want string) (record, error) {
	none := dayfly.Errorf(dayfly.NotFound, "there is no image %q here: pull it (dayfly image pull %s), import an archive (dayfly image import), "+
		"or build one (dayfly image build base)", want, want)
	prefix := strings.TrimPrefix(want, "sha256:")
	if len(prefix) < minHexPrefix || !isHex(prefix, len(prefix)) {
		return record{}, none
	}
	hexes, err := s.hexes()
	if err != nil {
		return record{}, err
	}
	hexes = slices.DeleteFunc(hexes, func(h string) bool { return !strings.HasPrefix(h, prefix) })
	switch len(hexes) {
	case 0:
		return record{}, none
	case 1:
		r := record{Digest: "sha256:" + hexes[0]}
		all, err := s.records()
		if i := slices.IndexFunc(all, func(o record) bool { return o.Digest == r.Digest }); i >= 0 {
			r.Name = all[i].Name
		}
		return r, err
	}
	return record{}, dayfly.Errorf(dayfly.Conflict, "%q is the beginning of %d images' digests: give more of it", want, len(hexes))
}

// hexes returns the digests of all images.
func (s *Store) hexes() ([]string, error) {
	files, err := filepath.Glob(s.rootfs("*"))
	if err != nil {
		return nil, err
	}
	for i, f := range files {
		files[i] = strings.TrimSuffix(filepath.Base(f), ".ext4")
	}
	return files, nil
}

func isHex(s string, n int) bool {
	return len(s) == n && strings.Trim(s, "0123456789abcdef") == ""
}

// load reads what the store knows of an image.
func (s *Store) load(display, hex string) (dayfly.Image, error) {
	info, err := os.Lstat(s.rootfs(hex))
	if err != nil {
		return dayfly.Image{}, err
	}
	manifest, err := s.readSum(s.path(manifestsDir, hex+".json"), hex)
	if err != nil {
		return dayfly.Image{}, err
	}
	m, err := v1.ParseManifest(bytes.NewReader(manifest))
	if err != nil {
		return dayfly.Image{}, damaged(hex, err)
	}
	raw, err := s.readSum(s.path(configsDir, hex+".json"), m.Config.Digest.Hex)
	if err != nil {
		return dayfly.Image{}, err
	}
	cfg, err := v1.ParseConfigFile(bytes.NewReader(raw))
	if err != nil {
		return dayfly.Image{}, damaged(hex, err)
	}
	img := dayfly.Image{Name: display, Digest: "sha256:" + hex, Config: runConfig(cfg.Config)}
	img.Platform = v1.Platform{OS: cfg.OS, Architecture: cfg.Architecture, Variant: cfg.Variant}.String()
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		img.Size = st.Blocks * 512
	}
	if img.CreatedAt = cfg.Created.UTC(); cfg.Created.IsZero() {
		img.CreatedAt = time.Time{}
	}
	return img, nil
}

// readSum reads a file whose content has a known digest.
func (s *Store) readSum(file, hex string) ([]byte, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, damaged(strings.TrimSuffix(filepath.Base(file), ".json"), err)
	}
	if sum(b) != hex {
		return nil, damaged(strings.TrimSuffix(filepath.Base(file), ".json"), fmt.Errorf("%s has another digest", filepath.Base(filepath.Dir(file))))
	}
	return b, nil
}

func damaged(hex string, err error) error {
	e := dayfly.Errorf(dayfly.Internal, "image sha256:%s is damaged in the image store: remove it (dayfly image rm) and get it again", hex)
	e.Err = err
	return e
}

// runConfig takes from an image's config what Dayfly honours.
func runConfig(c v1.Config) dayfly.ImageConfig {
	out := dayfly.ImageConfig{
		Env: c.Env, Entrypoint: c.Entrypoint, Cmd: c.Cmd,
		User: c.User, Workdir: c.WorkingDir, StopSignal: c.StopSignal,
	}
	for port := range c.ExposedPorts {
		out.ExposedPorts = append(out.ExposedPorts, port)
	}
	slices.Sort(out.ExposedPorts)
	return out
}
