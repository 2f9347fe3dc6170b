package snapshot

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// FuzzManifest: without the key nobody makes a manifest that is believed.
func FuzzManifest(f *testing.F) {
	good, err := os.ReadFile(filepath.Join("testdata", "v1", manifestName))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(versionPrefix + "2,"))
	f.Add([]byte(saltPrefix))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _, err := parseManifest(b, testKey(0))
		if err == nil && !bytes.Equal(b, good) {
			t.Fatal("a forged manifest was believed")
		}
		if err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewer) && !errors.Is(err, ErrWrongKey) {
			t.Fatalf("parseManifest = %v", err)
		}
	})
}

// FuzzBody: even the key's owner cannot write a body that asks for more than
// the format allows, and what is accepted can be written again.
func FuzzBody(f *testing.F) {
	good, err := os.ReadFile(filepath.Join("testdata", "v1", manifestName))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good[leadLen : len(good)-trailerLen])
	f.Add([]byte("{}"))
	k, err := derive(testKey(0), salt{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeBody(b)
		if err != nil {
			return
		}
		if m.RAM.Size > maxRAM || m.State > maxState || indexSize(m.RAM.Chunks) > 100<<20 || len(m.Disks) > maxDisks {
			t.Fatalf("accepted %+v", m)
		}
		text, _, err := encodeManifest(k, m)
		if err != nil {
			t.Fatalf("accepted what cannot be written: %v", err)
		}
		if _, _, err := parseManifest(text, testKey(0)); err != nil {
			t.Fatalf("written and not read: %v", err)
		}
	})
}

// FuzzRAM: any bytes in place of the file ram give an error, and of a damaged
// chunk no byte reaches the memory.
func FuzzRAM(f *testing.F) {
	from := filepath.Join("testdata", "v1")
	good, err := os.ReadFile(filepath.Join(from, ramName))
	if err != nil {
		f.Fatal(err)
	}
	manifest, err := os.ReadFile(filepath.Join(from, manifestName))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(append(bytes.Clone(good[:len(good)-1]), 0))
	f.Add(good[:100])
	want := sample().memory
	f.Fuzz(func(t *testing.T, b []byte) {
		k, m, err := parseManifest(manifest, testKey(0))
		if err != nil {
			t.Fatal(err)
		}
		g := &Generation{dir: t.TempDir(), keys: k, body: m}
		if err := os.WriteFile(g.path(ramName), b, 0o600); err != nil {
			t.Fatal(err)
		}
		s := &sink{b: make([]byte, len(want))}
		err = g.LoadRAM(t.Context(), s)
		if bytes.Equal(b, good) {
			if err != nil || !bytes.Equal(s.b, want) {
				t.Fatalf("LoadRAM = %v", err)
			}
		} else if !errors.Is(err, ErrDamaged) || !isZero(s.b) {
			t.Fatalf("LoadRAM = %v, wrote: %v", err, !isZero(s.b))
		}
	})
}

// FuzzChunk: a chunk's runs lie inside the memory and take up all its pages.
func FuzzChunk(f *testing.F) {
	const size = 64 * PageSize
	f.Add(appendRuns(make([]byte, 3*PageSize), []run{{1, 2}, {63, 1}}))
	f.Add(appendRuns(make([]byte, PageSize), []run{{1 << 31, 1 << 31}}))
	f.Add(make([]byte, minChunk))
	f.Fuzz(func(t *testing.T, b []byte) {
		pages, runs, err := splitChunk(b, size)
		if err != nil {
			return
		}
		left := int64(len(pages))
		for ; len(runs) > 0; runs = runs[runLen:] {
			off, n := runAt(runs)
			if left -= n; n <= 0 || off < 0 || off+n > size || left < 0 {
				t.Fatalf("run of %d bytes at %d", n, off)
			}
		}
		if left != 0 {
			t.Fatalf("%d bytes without a place", left)
		}
	})
}

// FuzzIndex: an index gives chunks that fill the file, each of a size that the
// reader's buffer has.
func FuzzIndex(f *testing.F) {
	f.Add(make([]byte, entryLen), int64(100))
	f.Add(append([]byte{0, 0, 16, 12}, make([]byte, 16)...), int64(len(ramHeader)+minChunk+tagLen))
	f.Fuzz(func(t *testing.T, b []byte, end int64) {
		all, err := places(b, end)
		if err != nil {
			return
		}
		at := int64(len(ramHeader))
		for _, p := range all {
			if p.off != at || p.size < minChunk || p.size > maxChunk {
				t.Fatalf("chunk of %d bytes at %d", p.size, p.off)
			}
			at += int64(p.size) + tagLen
		}
		if at != end {
			t.Fatalf("chunks end at %d, not %d", at, end)
		}
	})
}
