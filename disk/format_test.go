package disk

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func sampleSeed() *seed {
	s := &seed{size: 64 << 20, index: []uint64{0, 1, 16383}, data: make([]byte, 3*BlockSize)}
	for i := range s.data {
		s.data[i] = byte(i / BlockSize)
	}
	return s
}

// TestSeedVersion1LoadsForEver holds the format of docs/formats/seed.md.
func TestSeedVersion1LoadsForEver(t *testing.T) {
	t.Parallel()
	got, err := readSeed(filepath.Join("testdata", "v1.seed"), 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.encode(), sampleSeed().encode()) {
		t.Fatal("the sample seed was read as something else")
	}
}

func TestSeedForAnotherSizeIsNotUsed(t *testing.T) {
	t.Parallel()
	if _, err := readSeed(filepath.Join("testdata", "v1.seed"), 65<<20); !errors.Is(err, errSeed) {
		t.Fatalf("readSeed = %v", err)
	}
}

func TestOversizedSeedFileIsNotRead(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "big.seed")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(1 << 40); err != nil {
		t.Fatal(err)
	}
	if _, err := readSeed(path, 64<<20); !errors.Is(err, errSeed) {
		t.Fatalf("readSeed = %v", err)
	}
}

// FuzzSeed: any bytes give errSeed or a seed whose blocks lie inside its file
// system, in order, and which encode writes again.
func FuzzSeed(f *testing.F) {
	good := sampleSeed().encode()
	f.Add(good)
	f.Add(good[:seedHeader])
	f.Add([]byte(seedMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeSeed(b)
		if err != nil {
			if !errors.Is(err, errSeed) {
				t.Fatalf("decodeSeed = %v", err)
			}
			return
		}
		for i, n := range s.index {
			if int64(n) >= s.size/BlockSize || i > 0 && n <= s.index[i-1] || len(s.block(i)) != BlockSize {
				t.Fatalf("block %d is %d", i, n)
			}
		}
		if !bytes.Equal(s.encode(), b) {
			t.Fatal("accepted bytes that encode would not write")
		}
	})
}
