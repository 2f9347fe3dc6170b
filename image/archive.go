package image

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"
	"path"

	"github.com/google/go-containerregistry/pkg/v1"

	"github.com/dayfly/dayfly"
)

// archive is a tar file on disk and where its members are in it.
type archive struct {
	files map[string]*io.SectionReader // by clean relative path
	file  *os.File
	own   bool // close it when done
}

func (a *archive) close() {
	if a.own {
		_ = a.file.Close()
	}
}

const (
	maxLinks  = 16      // from a link to the file it leads to
	indexSize = 100_000 // members of an archive of images; each layer is a few
)

// openArchive indexes the archive in r. A plain file is read in place, anything
// else goes to a file of ours first, decompressed.
func (s *Store) openArchive(ctx context.Context, r io.Reader, t *scratch, report *reporter) (*archive, error) {
	if f, size := plainFile(r); f != nil {
		a := &archive{file: f}
		return a, a.index(ctx, size)
	}
	f, err := os.OpenFile(t.path("archive"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	a := &archive{file: f, own: true}
	size, err := s.spool(ctx, r, f, report)
	if err == nil {
		err = a.index(ctx, size)
	}
	if err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

// plainFile returns r if it is an uncompressed file read from its beginning.
func plainFile(r io.Reader) (*os.File, int64) {
	f, ok := r.(*os.File)
	if !ok {
		return nil, 0
	}
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, 0
	}
	if at, err := f.Seek(0, io.SeekCurrent); err != nil || at != 0 {
		return nil, 0
	}
	magic := make([]byte, 4)
	if _, err := f.ReadAt(magic, 0); err != nil || isZstd(magic) || magic[0] == gzipMagic[0] && magic[1] == gzipMagic[1] {
		return nil, 0
	}
	return f, info.Size()
}

func (s *Store) spool(ctx context.Context, r io.Reader, to *os.File, report *reporter) (int64, error) {
	plain, err := s.unpack(&watched{ctx.Err, r, report.step("read archive", 0)}, s.limits.ImageBytes, "image bytes")
	if err != nil {
		return 0, err
	}
	defer plain.close()
	n, err := io.Copy(to, plain)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = dayfly.Errorf(dayfly.Invalid, "the archive ends early: it is truncated")
	}
	return n, err
}

// index finds the members. Old archives hold links between layers.
func (a *archive) index(ctx context.Context, size int64) error {
	at := io.NewSectionReader(a.file, 0, size)
	tr := tar.NewReader(at)
	a.files = map[string]*io.SectionReader{}
	links := map[string]string{}
	for count := 0; ; count++ {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return indexError(err)
		}
		if count >= indexSize {
			return exceeded("archive", "members", "more", indexSize)
		}
		name := clean(hdr.Name)
		switch hdr.Typeflag {
		case tar.TypeReg:
			start, err := at.Seek(0, io.SeekCurrent)
			if err != nil {
				return err
			}
			if start+hdr.Size > size {
				return dayfly.Errorf(dayfly.Invalid, "the archive ends in the middle of %s: it is truncated", clip(name))
			}
			a.files[name] = io.NewSectionReader(a.file, start, hdr.Size)
		case tar.TypeSymlink:
			links[name] = clean(path.Dir(name) + "/" + hdr.Linkname)
		case tar.TypeLink:
			links[name] = clean(hdr.Linkname)
		}
	}
	for name := range links {
		to := name
		for i := 0; i < maxLinks && a.files[to] == nil; i++ {
			to = links[to]
		}
		if a.files[to] != nil {
			a.files[name] = a.files[to]
		}
	}
	return nil
}

func indexError(err error) error {
	switch {
	case errors.Is(err, tar.ErrHeader), errors.Is(err, tar.ErrFieldTooLong):
		return dayfly.Errorf(dayfly.Invalid, "this is not a tar archive, or it is damaged")
	case isEnd(err):
		return dayfly.Errorf(dayfly.Invalid, "the archive ends early: it is truncated")
	}
	return err
}

func clean(name string) string { return path.Clean("/" + name)[1:] }

// fromLayout finds the images of an OCI layout inside an archive.
func (s *Store) fromLayout(ctx context.Context, a *archive, o ImportOptions) ([]named, error) {
	index, err := s.readAll("index.json", a.files["index.json"])
	if err != nil {
		return nil, err
	}
	blobs := sections{}
	for name, at := range a.files {
		dir, hex := path.Split(name)
		if path.Dir(path.Clean(dir)) != "blobs" {
			continue
		}
		if h, err := v1.NewHash(path.Base(dir) + ":" + hex); err == nil {
			blobs[h] = at
		}
	}
	return s.fromIndex(ctx, blobs, index, o)
}
