package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// sizeOf is how many bytes the files of a directory hold.
func sizeOf(dir string) (total int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		st, err := d.Info()
		if err == nil {
			total += st.Size()
		}
		return err
	})
	return total, err
}

// pack writes what is in a directory as a tar stream, in a form that every tar
// reads. It tells how much of the files it has written, and what it left out.
func pack(w io.Writer, dir string, wrote func(int64), leftOut func(name, why string)) error {
	tw := tar.NewWriter(w)
	var total int64
	dir, err := filepath.EvalSymlinks(dir) // the one that was named may be a link
	if err != nil {
		return err
	}
	err = filepath.WalkDir(dir, func(at string, d fs.DirEntry, err error) error {
		if err != nil || at == dir {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, at)
		if err != nil {
			return err
		}
		switch {
		case st.IsDir(), st.Mode().IsRegular(), st.Mode()&fs.ModeSymlink != 0:
		default:
			leftOut(name, "neither file, directory nor link")
			return nil
		}
		n, err := packOne(tw, at, filepath.ToSlash(name), st)
		total += n
		wrote(total)
		return err
	})
	if err != nil {
		return err
	}
	return tw.Close()
}

func packOne(tw *tar.Writer, at, name string, st fs.FileInfo) (int64, error) {
	link := ""
	if st.Mode()&fs.ModeSymlink != 0 {
		var err error
		if link, err = os.Readlink(at); err != nil {
			return 0, err
		}
	}
	h, err := header(st, name, link)
	if err != nil {
		return 0, err
	}
	if err := tw.WriteHeader(h); err != nil || !st.Mode().IsRegular() {
		return 0, err
	}
	f, err := os.Open(at)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	n, err := io.CopyN(tw, f, h.Size) // what is added to it meanwhile does not belong to this copy
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("%s became shorter while it was copied", at)
	}
	return n, err
}

// header is that of a file without what is this machine's alone: owners, and
// the bits that lend them.
func header(st fs.FileInfo, name, link string) (*tar.Header, error) {
	h, err := tar.FileInfoHeader(st, link)
	if err != nil {
		return nil, err
	}
	h.Name = "./" + name
	if st.IsDir() {
		h.Name += "/"
	}
	h.Mode = int64(st.Mode().Perm())
	h.Uid, h.Gid, h.Uname, h.Gname = 0, 0, "", ""
	h.ModTime, h.AccessTime, h.ChangeTime = st.ModTime().Truncate(time.Second), time.Time{}, time.Time{}
	h.PAXRecords, h.Format = nil, tar.FormatGNU // small implementations lose long names in the form of POSIX
	return h, nil
}

// packFile is a stream with one file of a name.
func packFile(content io.Reader, st fs.FileInfo, name string) io.Reader {
	r, w := io.Pipe()
	go func() {
		tw := tar.NewWriter(w)
		h, err := header(st, name, "")
		if err == nil {
			err = tw.WriteHeader(h)
		}
		if err == nil {
			_, err = io.CopyN(tw, content, h.Size)
		}
		if err == nil {
			err = tw.Close()
		}
		_ = w.CloseWithError(err)
	}()
	return r
}

// rootAt opens a directory that is made if it is not there. Nothing is written
// outside of it, whatever links are in it.
func rootAt(dir string) (*os.Root, error) {
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return os.OpenRoot(dir)
}

// unpack writes what a tar stream holds into a directory. The stream is a
// guest's, and may hold anything.
func unpack(root *os.Root, r io.Reader, leftOut func(name, why string)) error {
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		name := path.Clean(h.Name)
		if name == "." {
			continue
		}
		if !filepath.IsLocal(filepath.FromSlash(name)) || strings.ContainsRune(name, 0) {
			return fmt.Errorf("the stream holds %q, which is outside of the directory", h.Name)
		}
		if err := unpackOne(root, name, h, tr, leftOut); err != nil {
			return err
		}
	}
}

func unpackOne(root *os.Root, name string, h *tar.Header, r io.Reader, leftOut func(name, why string)) error {
	perm := fs.FileMode(h.Mode) & fs.ModePerm
	if h.Typeflag == tar.TypeDir {
		return root.MkdirAll(name, perm|0o700) // to be written into
	}
	if parent := path.Dir(name); parent != "." {
		if err := root.MkdirAll(parent, 0o755); err != nil {
			return err
		}
	}
	if st, err := root.Lstat(name); err == nil && !st.IsDir() {
		if err := root.Remove(name); err != nil { // not written through: it may be a link
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, r) // a copy is as large as what is copied; Ctrl-C ends it
		return errors.Join(err, f.Close())
	case tar.TypeSymlink:
		return root.Symlink(h.Linkname, name)
	case tar.TypeLink:
		return root.Link(path.Clean(h.Linkname), name)
	}
	leftOut(name, "neither file, directory nor link")
	return nil
}
