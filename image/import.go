package image

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/v1"

	"github.com/dayfly/dayfly"
)

// ImportOptions say what to make of an archive.
type ImportOptions struct {
	Name     string                // what to call the image; default: what the archive calls it
	Platform string                // os/arch[/variant]; default linux/amd64
	Progress func(dayfly.Progress) // never called twice at the same time
}

// Import reads an archive of images to its end: one of docker save, or the tar
// of an OCI layout, plain or compressed with gzip or zstd. It returns one Image
// for every name the archive gives. A malformed or hostile archive is an
// Invalid error, one beyond the limits an Exhausted one. Images that were
// complete before an error stay and are returned with it.
func (s *Store) Import(ctx context.Context, r io.Reader, o ImportOptions) ([]dayfly.Image, error) {
	images, err := s.importArchive(ctx, r, o)
	return images, s.hostError("import", within("import", err))
}

func (s *Store) importArchive(ctx context.Context, r io.Reader, o ImportOptions) ([]dayfly.Image, error) {
	t, err := s.scratch()
	if err != nil {
		return nil, err
	}
	defer t.remove()
	report := &reporter{to: o.Progress}
	a, err := s.openArchive(ctx, r, t, report)
	if err != nil {
		return nil, err
	}
	defer a.close()
	all, err := s.fromArchive(ctx, a, o)
	if err != nil {
		return nil, err
	}
	return s.prepareAll(ctx, all, report)
}

// fromArchive finds the images of an archive. What docker save writes today is
// an OCI layout too, which says more.
func (s *Store) fromArchive(ctx context.Context, a *archive, o ImportOptions) ([]named, error) {
	switch {
	case a.files["index.json"] != nil:
		return s.fromLayout(ctx, a, o)
	case a.files["manifest.json"] != nil:
		return s.fromDocker(ctx, a, o)
	}
	return nil, dayfly.Errorf(dayfly.Invalid, "this is neither a docker save archive nor an OCI layout: it has no manifest.json and no index.json, or it is truncated before them")
}

// ImportDir reads an OCI layout directory, as Import does its archive.
func (s *Store) ImportDir(ctx context.Context, dir string, o ImportOptions) ([]dayfly.Image, error) {
	images, err := s.importDir(ctx, dir, o)
	return images, s.hostError("import", within("import", err))
}

func (s *Store) importDir(ctx context.Context, dir string, o ImportOptions) ([]dayfly.Image, error) {
	f, err := os.Open(filepath.Join(dir, "index.json"))
	if os.IsNotExist(err) {
		return nil, dayfly.Errorf(dayfly.NotFound, "%s is not an OCI layout: it has no index.json", dir)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	index, err := s.readAll("index.json", f)
	if err != nil {
		return nil, err
	}
	all, err := s.fromIndex(ctx, layout{dir}, index, o)
	if err != nil {
		return nil, err
	}
	return s.prepareAll(ctx, all, &reporter{to: o.Progress})
}

// readAll reads a file of JSON within the limit for such.
func (s *Store) readAll(what string, r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, s.limits.ManifestBytes+1))
	if err == nil && int64(len(b)) > s.limits.ManifestBytes {
		err = exceeded(what, "manifest bytes", "more", s.limits.ManifestBytes)
	}
	return b, err
}

// named is an image and what it is to be called.
type named struct {
	image *found
	as    naming
}

func (s *Store) prepareAll(ctx context.Context, all []named, report *reporter) ([]dayfly.Image, error) {
	var images []dayfly.Image
	for _, n := range all {
		img, err := s.prepare(ctx, n.image, n.as, report)
		if err != nil {
			return images, within(n.as.display, err)
		}
		images = append(images, img)
	}
	return images, nil
}

// Annotations that give an image of a layout its name.
const (
	annotationContainerd = "io.containerd.image.name"          // the whole reference
	annotationRef        = "org.opencontainers.image.ref.name" // a reference, or only a tag
	annotationDocker     = "vnd.docker.reference.type"         // not an image but a statement about one
)

// fromIndex finds the images of a layout by its index.json.
func (s *Store) fromIndex(ctx context.Context, c content, index []byte, o ImportOptions) ([]named, error) {
	var m v1.IndexManifest
	if err := json.Unmarshal(index, &m); err != nil {
		return nil, dayfly.Errorf(dayfly.Invalid, "index.json: %s", clip(err))
	}
	groups, err := s.groups(m.Manifests, o)
	if err != nil {
		return nil, err
	}
	var all []named
	for _, g := range groups {
		desc := g.from[0]
		if len(g.from) > 1 {
			want, err := parsePlatform(o.Platform)
			if err != nil {
				return nil, err
			}
			if desc, err = choose(g.from, want); err != nil {
				return nil, err
			}
		}
		f, err := s.resolve(ctx, c, desc, o.Platform)
		if err != nil {
			return nil, within(g.as.display, err)
		}
		all = append(all, named{f, g.as})
	}
	return all, nil
}

// group is what a layout has under one name: an image, an index, or an image
// for each of several platforms.
type group struct {
	as   naming
	from []v1.Descriptor
}

func (s *Store) groups(from []v1.Descriptor, o ImportOptions) ([]group, error) {
	var all []group
	at := map[string]int{}
	for _, d := range from {
		if d.Annotations[annotationDocker] != "" {
			continue
		}
		n := annotatedName(d)
		i, known := at[n]
		if !known {
			i = len(all)
			at[n] = i
			all = append(all, group{})
		}
		all[i].from = append(all[i].from, d)
	}
	if len(all) == 0 {
		return nil, dayfly.Errorf(dayfly.Invalid, "there is no image in it")
	}
	for n, i := range at {
		as, err := importName(n, len(all), o)
		if err != nil {
			return nil, err
		}
		all[i].as = as
	}
	return all, nil
}

func annotatedName(d v1.Descriptor) string {
	if n := d.Annotations[annotationContainerd]; n != "" {
		return n
	}
	return d.Annotations[annotationRef]
}

// importName decides between the name asked for and the archive's own.
func importName(own string, count int, o ImportOptions) (naming, error) {
	switch {
	case o.Name != "" && count > 1:
		return naming{}, dayfly.Errorf(dayfly.Invalid, "it holds %d images, so they cannot all be called %q: leave the name out", count, o.Name)
	case o.Name != "":
		return plainName(o.Name)
	case own == "":
		return naming{}, dayfly.Errorf(dayfly.Invalid, "the archive does not say what its image is called: give a name (--name)")
	}
	return plainName(own)
}

// isEnd reports whether an error can only mean the archive's end.
func isEnd(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}
