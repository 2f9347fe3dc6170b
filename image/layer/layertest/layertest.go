// Package layertest holds what the meaning of OCI layers is: a table of
// hand-made layers beside the trees they must become, and the means to write
// the one and list the other. Whatever applies layers is held to it.
package layertest

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Case is a stack of layers, oldest first, and the tree it stands for.
type Case struct {
	Name   string
	Layers [][]Entry
	Want   []string         // as List writes it
	Times  map[string]int64 // modification times in Unix seconds
}

// Entry is one entry of a layer.
type Entry struct {
	tar.Header
	Body string
}

// Stamp is the modification time of entries that have no other.
var Stamp = time.Unix(1_600_000_000, 0)

// Tar writes entries as a layer.
func Tar(t testing.TB, entries ...Entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := e.Header
		h.Size = int64(len(e.Body))
		h.Format = tar.FormatPAX
		if h.ModTime.IsZero() {
			h.ModTime = Stamp
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			h = tar.Header{Typeflag: h.Typeflag, PAXRecords: h.PAXRecords}
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.Body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Check compares the tree in dir with what c wants. Entries of the root named
// in except are left out.
func Check(t testing.TB, c Case, dir string, except ...string) {
	t.Helper()
	got := List(t, dir, except...)
	want := slices.Clone(c.Want)
	slices.SortFunc(want, byPath)
	if !slices.Equal(got, want) {
		t.Errorf("tree is\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
	for name, at := range c.Times {
		info, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
		} else if got := info.ModTime().Unix(); got != at {
			t.Errorf("%s: modified at %d, want %d", name, got, at)
		}
	}
}

func byPath(a, b string) int { return strings.Compare(pathOf(a), pathOf(b)) }

func pathOf(line string) string { return strings.Fields(line)[3] }

// List describes a tree, a line for every entry, in order of their paths:
//
//	d 0755 0:0 etc
//	f 4755 0:0 bin/su "content" user.a="b"
//	f 0644 0:0 bin/sudo = bin/su
//	l 0777 0:0 lib -> usr/lib
//	c 0600 0:0 null 1:3
func List(t testing.TB, dir string, except ...string) []string {
	t.Helper()
	var lines []string
	first := map[uint64]string{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if slices.Contains(except, name) {
			return fs.SkipDir
		}
		line, err := describe(path, name, first)
		lines = append(lines, line)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(lines, byPath)
	return lines
}

func describe(path, name string, first map[uint64]string) (string, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return "", err
	}
	st := info.Sys().(*syscall.Stat_t)
	letter := map[uint32]string{
		unix.S_IFDIR: "d", unix.S_IFREG: "f", unix.S_IFLNK: "l", unix.S_IFCHR: "c", unix.S_IFBLK: "b", unix.S_IFIFO: "p",
	}[st.Mode&unix.S_IFMT]
	line := fmt.Sprintf("%s %04o %d:%d %s", letter, st.Mode&0o7777, st.Uid, st.Gid, Quote(name))
	if letter == "f" && st.Nlink > 1 { // mke2fs keeps the identity of no others, which nobody can tell by
		if same, ok := first[st.Ino]; ok {
			return line + " = " + Quote(same), nil
		}
		first[st.Ino] = name
	}
	switch letter {
	case "f":
		b, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		line += fmt.Sprintf(" %q", b)
	case "l":
		to, err := os.Readlink(path)
		if err != nil {
			return "", err
		}
		line += " -> " + to
	case "c", "b":
		line += fmt.Sprintf(" %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	attrs, err := xattrs(path)
	return line + attrs, err
}

// Quote shows a name on one line and without blanks.
func Quote(name string) string {
	q := fmt.Sprintf("%q", name)
	if q == `"`+name+`"` && !strings.Contains(name, " ") {
		return name
	}
	return strings.ReplaceAll(q, " ", `\x20`)
}

func xattrs(path string) (string, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		return "", err
	}
	names := strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 })
	slices.Sort(names)
	out := ""
	for _, name := range names {
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return "", err
		}
		out += fmt.Sprintf(" %s=%q", name, value[:n])
	}
	return out, nil
}
