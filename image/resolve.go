package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/dayfly/dayfly"
)

// found is one image, known but for its layers' bytes.
type found struct {
	hex      string // sha256 of manifest
	manifest []byte
	config   []byte
	layers   []v1.Descriptor
	diffIDs  []v1.Hash
	content  content
}

const (
	defaultPlatform = "linux/amd64" // what the virtual machines are
	maxIndexDepth   = 4             // indexes may hold indexes
)

// layerTypes are the layers this package can read. How they are compressed is
// seen from their content.
var layerTypes = []types.MediaType{
	types.DockerLayer, types.DockerUncompressedLayer, types.OCILayer, types.OCIUncompressedLayer, types.OCILayerZStd,
	"application/vnd.docker.image.rootfs.diff.tar.zstd",
}

// resolve follows a descriptor through indexes to the image for a platform.
func (s *Store) resolve(ctx context.Context, c content, desc v1.Descriptor, platform string) (*found, error) {
	want, err := parsePlatform(platform)
	if err != nil {
		return nil, err
	}
	for range maxIndexDepth {
		raw, err := s.readBlob(ctx, c, desc)
		if err != nil {
			return nil, s.blobError(err)
		}
		kind, err := mediaType(desc, raw)
		if err != nil {
			return nil, err
		}
		if kind.IsImage() {
			return s.image(ctx, c, raw, want)
		}
		var index v1.IndexManifest
		if err := json.Unmarshal(raw, &index); err != nil {
			return nil, dayfly.Errorf(dayfly.Invalid, "index %s: %s", short(desc.Digest), clip(err))
		}
		if desc, err = choose(index.Manifests, want); err != nil {
			return nil, err
		}
	}
	return nil, exceeded("index "+short(desc.Digest), "index depth", "more", maxIndexDepth)
}

// mediaType says whether raw is an index or a manifest. Descriptors of old
// registries and archives lie or say nothing, so the content has the last word.
func mediaType(desc v1.Descriptor, raw []byte) (types.MediaType, error) {
	if desc.MediaType.IsSchema1() {
		return "", dayfly.Errorf(dayfly.Invalid, "the image has the manifest format of 2015 (schema 1), which is obsolete: push it again with a current tool")
	}
	var probe struct {
		MediaType types.MediaType `json:"mediaType"`
		Config    json.RawMessage `json:"config"`
		Manifests json.RawMessage `json:"manifests"`
		History   json.RawMessage `json:"fsLayers"`
	}
	if err := json.Unmarshal(raw, &probe); err != nil {
		return "", dayfly.Errorf(dayfly.Invalid, "manifest %s is not JSON: %s", short(desc.Digest), clip(err))
	}
	switch {
	case probe.Config != nil && probe.Manifests == nil:
		return types.OCIManifestSchema1, nil
	case probe.Manifests != nil && probe.Config == nil:
		return types.OCIImageIndex, nil
	}
	return "", dayfly.Errorf(dayfly.Invalid, "manifest %s (%s) is neither of an image nor an index of images", short(desc.Digest), clip(desc.MediaType))
}

// image reads an image's manifest and config and refuses what cannot be run.
func (s *Store) image(ctx context.Context, c content, raw []byte, want v1.Platform) (*found, error) {
	m, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, dayfly.Errorf(dayfly.Invalid, "manifest: %s", clip(err))
	}
	if !m.Config.MediaType.IsConfig() {
		return nil, dayfly.Errorf(dayfly.Invalid, "this is not a container image but something else, of type %s", clip(m.Config.MediaType))
	}
	if len(m.Layers) > s.limits.Layers {
		return nil, exceeded("manifest", "layers", len(m.Layers), s.limits.Layers)
	}
	for i, l := range m.Layers {
		if !slices.Contains(layerTypes, l.MediaType) {
			return nil, dayfly.Errorf(dayfly.Invalid, "layer %d of %d has the type %s, which cannot be unpacked: "+
				"build the image with ordinary layers (tar, gzip or zstd; not encrypted, not foreign)", i+1, len(m.Layers), clip(l.MediaType))
		}
	}
	config, err := s.readBlob(ctx, c, m.Config)
	if err != nil {
		return nil, within("config", s.blobError(err))
	}
	f := &found{hex: sum(raw), manifest: raw, config: config, layers: m.Layers, content: c}
	return f, f.readConfig(want)
}

// readConfig checks the config against the manifest and the wanted platform.
func (f *found) readConfig(want v1.Platform) error {
	cfg, err := v1.ParseConfigFile(bytes.NewReader(f.config))
	if err != nil {
		return dayfly.Errorf(dayfly.Invalid, "config: %s", clip(err))
	}
	if have := (v1.Platform{OS: cfg.OS, Architecture: cfg.Architecture, Variant: cfg.Variant}); !suits(have, want) {
		return dayfly.Errorf(dayfly.Invalid, "the image is for %s and %s is wanted: use an image built for that", clip(have), want)
	}
	if len(cfg.RootFS.DiffIDs) != len(f.layers) {
		return dayfly.Errorf(dayfly.Invalid, "the manifest has %d layers and its config %d", len(f.layers), len(cfg.RootFS.DiffIDs))
	}
	f.diffIDs = cfg.RootFS.DiffIDs
	return nil
}

// choose picks the image for a platform from an index, or says what there is.
func choose(from []v1.Descriptor, want v1.Platform) (v1.Descriptor, error) {
	var there []string
	var second *v1.Descriptor
	for i, d := range from {
		switch {
		case d.MediaType.IsIndex(), d.Platform == nil && len(from) == 1:
			second = &from[i]
		case d.Platform == nil || d.Platform.OS == "unknown": // attestations
		case suits(*d.Platform, want) && d.Platform.Variant == want.Variant:
			return d, nil
		case suits(*d.Platform, want) && second == nil:
			second = &from[i]
		default:
			there = append(there, clip(d.Platform))
		}
	}
	if second != nil {
		return *second, nil
	}
	if len(there) == 0 {
		there = []string{"no image at all"}
	}
	const most = 20
	if len(there) > most {
		there = append(there[:most], "and more")
	}
	return v1.Descriptor{}, dayfly.Errorf(dayfly.NotFound, "there is no image for %s; there is: %s", want, strings.Join(there, ", "))
}

// suits reports whether an image runs on a platform. What it does not say of
// itself is given the benefit of the doubt.
func suits(have, want v1.Platform) bool {
	return (have.OS == "" || have.OS == want.OS) &&
		(have.Architecture == "" || have.Architecture == want.Architecture) &&
		(want.Variant == "" || have.Variant == "" || have.Variant == want.Variant)
}

func parsePlatform(s string) (v1.Platform, error) {
	if s == "" {
		s = defaultPlatform
	}
	p, err := v1.ParsePlatform(s)
	if err != nil || p.OS == "" || p.Architecture == "" {
		return v1.Platform{}, dayfly.Errorf(dayfly.Invalid, "platform is %q: use os/arch, such as %s", s, defaultPlatform)
	}
	return *p, nil
}

// blobError gives a truncated blob its place among the errors.
func (s *Store) blobError(err error) error {
	var e *dayfly.Error
	var t *truncated
	if !errors.As(err, &e) && errors.As(err, &t) {
		return dayfly.Errorf(dayfly.Invalid, "%w: it is truncated", t)
	}
	return err
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}
