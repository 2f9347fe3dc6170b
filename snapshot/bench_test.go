package snapshot

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// inMemory is a directory whose files are in memory, where this host has one.
func inMemory(b *testing.B) string {
	b.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "snapshot-bench-")
	if err != nil {
		return b.TempDir()
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// touched is a file of that many MiB without a zero page, and its extents: a
// machine's memory has neighbouring pages, with holes between.
func touched(b *testing.B, dir string, mib int) (*os.File, int64, []Extent) {
	b.Helper()
	f, err := os.Create(filepath.Join(dir, "memory"))
	check(b, err)
	b.Cleanup(func() { _ = f.Close() })
	var extents []Extent
	for i := range int64(mib) {
		e := Extent{i * 3 << 20, 1 << 20}
		_, err := f.WriteAt(noise(byte(i), 1<<20), e.Off)
		check(b, err)
		extents = append(extents, e)
	}
	size := int64(mib) * 3 << 20
	check(b, f.Truncate(size))
	return f, size, extents
}

func BenchmarkRAM(b *testing.B) {
	for _, mib := range []int{64, 300} {
		b.Run(fmt.Sprintf("%dMiB", mib), func(b *testing.B) {
			dir := inMemory(b)
			f, size, extents := touched(b, dir, mib)
			b.SetBytes(int64(mib) << 20)
			for b.Loop() {
				w, err := Create(filepath.Join(dir, "g"), testKey(0))
				check(b, err)
				check(b, w.RAM(b.Context(), f, size, extents))
				check(b, w.Abort())
			}
		})
	}
}

func BenchmarkLoadRAM(b *testing.B) {
	for _, mib := range []int{64, 300} {
		b.Run(fmt.Sprintf("%dMiB", mib), func(b *testing.B) {
			dir := inMemory(b)
			f, size, extents := touched(b, dir, mib)
			w, err := Create(filepath.Join(dir, "g"), testKey(0))
			check(b, err)
			check(b, w.RAM(b.Context(), f, size, extents))
			check(b, w.State(b.Context(), nil))
			_, err = w.Commit(b.Context(), meta("g"))
			check(b, err)
			g, err := Open(filepath.Join(dir, "g"), testKey(0))
			check(b, err)
			defer g.Close()
			b.SetBytes(int64(mib) << 20)
			for b.Loop() {
				dst, err := os.Create(filepath.Join(dir, "loaded"))
				check(b, err)
				check(b, g.LoadRAM(b.Context(), io.WriterAt(dst)))
				check(b, dst.Close())
			}
		})
	}
}
