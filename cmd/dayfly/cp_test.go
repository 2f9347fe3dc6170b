package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func tarOf(t *testing.T, headers ...*tar.Header) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		content := ""
		if h.Typeflag == tar.TypeReg {
			content, h.Size = "planted", 7
		}
		h.Mode = 0o4777
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

// TestCopyWritesNothingOutside of its directory, whatever a guest sends.
func TestCopyWritesNothingOutside(t *testing.T) {
	t.Parallel()
	for name, headers := range map[string][]*tar.Header{
		"above":                 {{Name: "../outside", Typeflag: tar.TypeReg}},
		"from the root":         {{Name: "/outside", Typeflag: tar.TypeReg}},
		"by a link":             {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "l/outside", Typeflag: tar.TypeReg}},
		"by a link to the root": {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/"}, {Name: "l/outside", Typeflag: tar.TypeReg}},
		"a file by its link":    {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../precious"}, {Name: "./l", Typeflag: tar.TypeReg}},
		"a hard link":           {{Name: "l", Typeflag: tar.TypeLink, Linkname: "../precious"}, {Name: "l", Typeflag: tar.TypeReg}},
		"a directory":           {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "l/outside/", Typeflag: tar.TypeDir}},
		"a device":              {{Name: "d", Typeflag: tar.TypeBlock, Devmajor: 8}},
		"a pipe":                {{Name: "p", Typeflag: tar.TypeFifo}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			precious := filepath.Join(dir, "precious")
			if err := os.WriteFile(precious, []byte("precious"), 0o600); err != nil {
				t.Fatal(err)
			}
			root, err := rootAt(filepath.Join(dir, "into"))
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			_ = unpack(root, tarOf(t, headers...), func(string, string) {})
			entries, err := os.ReadDir(dir)
			if err != nil || len(entries) != 2 {
				t.Errorf("beside it are %v, %v", entries, err)
			}
			if b, err := os.ReadFile(precious); string(b) != "precious" {
				t.Errorf("it holds %q, %v", b, err)
			}
			_ = fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.Type()&(fs.ModeDevice|fs.ModeNamedPipe) != 0 {
					t.Errorf("%s is a %s", path, d.Type())
				}
				if st, err := d.Info(); err == nil && st.Mode()&fs.ModeSetuid != 0 {
					t.Errorf("%s is set-user-id", path)
				}
				return err
			})
		})
	}
}

func FuzzUnpack(f *testing.F) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	_ = w.WriteHeader(&tar.Header{Name: "./a/b", Typeflag: tar.TypeSymlink, Linkname: "../.."})
	_ = w.Close()
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, stream []byte) {
		dir := t.TempDir()
		root, err := rootAt(filepath.Join(dir, "into"))
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		_ = unpack(root, bytes.NewReader(stream), func(string, string) {})
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
			t.Errorf("beside it are %v, %v", entries, err)
		}
	})
}

func TestPackedDirectoriesComeBack(t *testing.T) {
	t.Parallel()
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "to")
	long := strings.Repeat("long/", 40) + "file"
	if err := os.MkdirAll(filepath.Dir(filepath.Join(from, long)), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(from, long), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("long", filepath.Join(from, "link")); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	var last int64
	if err := pack(&b, from, func(n int64) { last = n }, func(name, _ string) { t.Error(name) }); err != nil || last != 1 {
		t.Fatalf("%d bytes, %v", last, err)
	}
	root, err := rootAt(to)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := unpack(root, &b, func(name, _ string) { t.Error(name) }); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(to, long)); string(got) != "x" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := os.Readlink(filepath.Join(to, "link")); got != "long" {
		t.Errorf("%q, %v", got, err)
	}
	if err := pack(io.Discard, filepath.Join(from, "none"), nil, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
