package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"path"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/dayfly/dayfly"
)

// dockerImage is one element of the manifest.json that docker save writes.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// fromDocker finds the images of a docker save archive. Such an archive has no
// OCI manifest, so one is written for it, the same for the same content.
func (s *Store) fromDocker(ctx context.Context, a *archive, o ImportOptions) ([]named, error) {
	raw, err := s.readAll("manifest.json", a.files["manifest.json"])
	if err != nil {
		return nil, err
	}
	var images []dockerImage
	if err := json.Unmarshal(raw, &images); err != nil {
		return nil, dayfly.Errorf(dayfly.Invalid, "manifest.json: %s", clip(err))
	}
	if len(images) == 0 {
		return nil, dayfly.Errorf(dayfly.Invalid, "there is no image in it")
	}
	var all []named
	for _, di := range images {
		names, err := dockerNames(di, len(images), o)
		if err != nil {
			return nil, err
		}
		f, err := s.dockerImage(ctx, a, di, o.Platform)
		if err != nil {
			return nil, within(names[0].display, err)
		}
		for _, n := range names {
			all = append(all, named{f, n})
		}
	}
	return all, nil
}

func dockerNames(di dockerImage, images int, o ImportOptions) ([]naming, error) {
	tags := di.RepoTags
	if len(tags) == 0 || o.Name != "" {
		tags = []string{""}
	}
	var names []naming
	for _, tag := range tags {
		n, err := importName(tag, images, o)
		if err != nil {
			return nil, err
		}
		names = append(names, n)
	}
	return names, nil
}

// dockerImage makes an image of an element of manifest.json.
func (s *Store) dockerImage(ctx context.Context, a *archive, di dockerImage, platform string) (*found, error) {
	want, err := parsePlatform(platform)
	if err != nil {
		return nil, err
	}
	if len(di.Layers) > s.limits.Layers {
		return nil, exceeded("manifest.json", "layers", len(di.Layers), s.limits.Layers)
	}
	at := a.files[clean(di.Config)]
	if at == nil {
		return nil, dayfly.Errorf(dayfly.Invalid, "the config %s is not in the archive", clip(di.Config))
	}
	config, err := s.readAll("config", at)
	if err != nil {
		return nil, err
	}
	if hex := strings.TrimSuffix(path.Base(di.Config), ".json"); isHex(hex, sha256Hex) && hex != sum(config) {
		return nil, dayfly.Errorf(dayfly.Invalid, "the config %s has another digest: it was changed or damaged on its way", clip(di.Config))
	}
	cfg, err := v1.ParseConfigFile(bytes.NewReader(config))
	if err != nil {
		return nil, dayfly.Errorf(dayfly.Invalid, "config: %s", clip(err))
	}
	if len(cfg.RootFS.DiffIDs) != len(di.Layers) {
		return nil, dayfly.Errorf(dayfly.Invalid, "manifest.json has %d layers and the config %d", len(di.Layers), len(cfg.RootFS.DiffIDs))
	}
	m := v1.Manifest{SchemaVersion: 2, MediaType: types.DockerManifestSchema2, Config: v1.Descriptor{
		MediaType: types.DockerConfigJSON, Size: int64(len(config)), Digest: v1.Hash{Algorithm: "sha256", Hex: sum(config)},
	}}
	blobs := sections{}
	for i, file := range di.Layers {
		desc, err := describe(ctx, a.files[clean(file)], cfg.RootFS.DiffIDs[i])
		if err != nil {
			return nil, within("layer "+clip(file), err)
		}
		blobs[desc.Digest] = a.files[clean(file)]
		m.Layers = append(m.Layers, desc)
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	f := &found{hex: sum(raw), manifest: raw, config: config, layers: m.Layers, content: blobs}
	return f, f.readConfig(want)
}

// describe makes the descriptor of a layer in an archive. An uncompressed one
// is known by its digest in the config, which unpacking verifies; a compressed
// one has to be read.
func describe(ctx context.Context, at *io.SectionReader, diffID v1.Hash) (v1.Descriptor, error) {
	if at == nil {
		return v1.Descriptor{}, dayfly.Errorf(dayfly.Invalid, "is not in the archive")
	}
	magic := make([]byte, 4)
	n, err := at.ReadAt(magic, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return v1.Descriptor{}, err
	}
	if magic = magic[:n]; !bytes.HasPrefix(magic, gzipMagic) && !isZstd(magic) {
		return v1.Descriptor{MediaType: types.DockerUncompressedLayer, Size: at.Size(), Digest: diffID}, nil
	}
	whole := io.NewSectionReader(at, 0, at.Size())
	digest, size, err := v1.SHA256(&watched{ctx.Err, whole, func(int) {}})
	return v1.Descriptor{MediaType: types.DockerLayer, Size: size, Digest: digest}, err
}
