package disk_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/disk"
	"github.com/dayfly/dayfly/keyring"
	"github.com/dayfly/dayfly/test/needs"
	"golang.org/x/sys/unix"
)

const smallDisk = disk.MinSize

func newKey() *keyring.Key {
	k := new(keyring.Key)
	_, _ = rand.Read(k[:])
	return k
}

func create(t testing.TB, size int64, key *keyring.Key, o disk.Options) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := disk.Create(t.Context(), path, size, key, o); err != nil {
		t.Fatal(err)
	}
	return path
}

func allocated(t testing.TB, path string) int64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

func names(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// eachData calls do with every part of the file that is not a hole.
func eachData(t testing.TB, path string, do func(off int64, b []byte)) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for off := int64(0); ; {
		start, err := f.Seek(off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		end, err := f.Seek(start, unix.SEEK_HOLE)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, end-start)
		if _, err := f.ReadAt(b, start); err != nil {
			t.Fatal(err)
		}
		do(start, b)
		off = end
	}
}

func TestDiskOfAnySizeIsMostlyHoles(t *testing.T) {
	t.Parallel()
	needs.E2fsprogs(t)
	for _, c := range []struct{ size, most int64 }{
		{64 << 20, 256 << 10}, {2 << 30, 512 << 10}, {200 << 30, 1 << 20}, {2 << 40, 4 << 20},
	} {
		path := create(t, c.size, newKey(), disk.Options{Seeds: t.TempDir()})
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if st.Size() != c.size || st.Mode().Perm() != 0o600 {
			t.Errorf("disk of %d bytes is %d bytes, mode %o", c.size, st.Size(), st.Mode().Perm())
		}
		if got := allocated(t, path); got > c.most {
			t.Errorf("disk of %d bytes takes %d, want at most %d", c.size, got, c.most)
		}
		t.Logf("disk of %6d MiB takes %4d KiB", c.size>>20, allocated(t, path)>>10)
	}
}

func TestRawFileHoldsNoPlaintext(t *testing.T) {
	t.Parallel()
	needs.E2fsprogs(t)
	path := create(t, smallDisk, newKey(), disk.Options{})
	marks := [][]byte{
		[]byte("lost+found"),
		{0xc0, 0x3b, 0x39, 0x98, 0, 0, 0, 4}, // a journal's superblock (fs/jbd2, JBD2_MAGIC_NUMBER, version 2)
		make([]byte, 64),                     // a run of zeros, as every metadata block has
		bytes.Repeat([]byte{0xff}, 64),       // the padding of a bitmap
	}
	eachData(t, path, func(off int64, b []byte) {
		for _, mark := range marks {
			if i := bytes.Index(b, mark); i >= 0 {
				t.Errorf("%q at byte %d of the raw file", mark, off+int64(i))
			}
		}
		const superblock, magicAt = 1024, 0x38 // struct ext4_super_block, s_magic
		if off == 0 && binary.LittleEndian.Uint16(b[superblock+magicAt:]) == 0xEF53 {
			t.Error("the superblock's magic number is in the raw file")
		}
	})
}

func TestEqualDisksHaveNoBlockInCommon(t *testing.T) {
	t.Parallel()
	needs.E2fsprogs(t)
	seeds := t.TempDir()
	seen := map[string]string{}
	for _, name := range []string{"a", "b"} {
		path := create(t, smallDisk, newKey(), disk.Options{Seeds: seeds})
		eachData(t, path, func(off int64, b []byte) {
			for i := 0; i < len(b); i += 16 { // the cipher's own block
				at := fmt.Sprintf("%s at %d", name, off+int64(i))
				if other, dup := seen[string(b[i:i+16])]; dup {
					t.Fatalf("ciphertext %s is that of %s", at, other)
				}
				seen[string(b[i:i+16])] = at
			}
		})
	}
	if len(seen) < 1000 {
		t.Fatalf("only %d cipher blocks compared", len(seen))
	}
}

func TestWipedDiskCannotBeOpened(t *testing.T) {
	t.Parallel()
	needs.E2fsprogs(t)
	dir := t.TempDir()
	ring, err := keyring.Open(filepath.Join(dir, "master"))
	if err != nil {
		t.Fatal(err)
	}
	keyPath, path := filepath.Join(dir, "disk.key"), filepath.Join(dir, "disk.raw")
	key, err := ring.Create(t.Context(), keyPath, "w")
	if err != nil {
		t.Fatal(err)
	}
	if err := disk.Create(t.Context(), path, smallDisk, key, disk.Options{}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // wiping twice is fine
		if err := errors.Join(ring.Forget(keyPath), disk.Wipe(path)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ring.Load(t.Context(), keyPath, "w"); !errors.Is(err, keyring.ErrNotFound) {
		t.Errorf("Load = %v, want not found", err)
	}
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("left behind: %v", got)
	}
}

func TestExistingFileIsNeverOverwritten(t *testing.T) {
	t.Parallel()
	needs.E2fsprogs(t)
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := disk.Create(t.Context(), path, smallDisk, newKey(), disk.Options{}); dayfly.KindOf(err) != dayfly.Conflict {
		t.Fatalf("Create = %v, want a conflict", err)
	}
	if got, _ := os.ReadFile(path); string(got) != "precious" {
		t.Fatalf("the file now holds %q", got)
	}
}

func TestBadDiskIsRefusedBeforeAnythingIsMade(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, c := range []struct {
		name string
		size int64
		key  *keyring.Key
		want dayfly.Kind
	}{
		{"too small", disk.MinSize - disk.BlockSize, newKey(), dayfly.Invalid},
		{"too large", disk.MaxSize + disk.BlockSize, newKey(), dayfly.Invalid},
		{"no whole blocks", disk.MinSize + 512, newKey(), dayfly.Invalid},
		{"negative", -1, newKey(), dayfly.Invalid},
		{"no key", smallDisk, nil, dayfly.Internal},
		{"cleared key", smallDisk, new(keyring.Key), dayfly.Internal},
	} {
		err := disk.Create(t.Context(), filepath.Join(dir, "disk.raw"), c.size, c.key, disk.Options{Seeds: filepath.Join(dir, "seeds")})
		if dayfly.KindOf(err) != c.want {
			t.Errorf("%s: Create = %v, want %s", c.name, err, c.want)
		}
	}
	if got := names(t, dir); len(got) != 0 {
		t.Errorf("left behind: %v", got)
	}
}

func TestCancelledCreateLeavesNothing(t *testing.T) {
	t.Parallel()
	needs.E2fsprogs(t)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := disk.Create(ctx, filepath.Join(dir, "disk.raw"), smallDisk, newKey(), disk.Options{})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("Create = %v", err)
	}
	if got := names(t, dir); len(got) != 0 {
		t.Fatalf("left behind: %v", got)
	}
}

func TestFullDiskSaysSoAndLeavesNothing(t *testing.T) {
	t.Parallel()
	needs.E2fsprogs(t)
	needs.Mount(t)
	dir := t.TempDir()
	if err := unix.Mount("dayfly", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	// The cache of seeds is on the full file system, too: that alone is no reason to fail.
	err := disk.Create(t.Context(), filepath.Join(dir, "disk.raw"), smallDisk, newKey(), disk.Options{Seeds: filepath.Join(dir, "seeds")})
	if dayfly.KindOf(err) != dayfly.Exhausted || !strings.Contains(err.Error(), "no space left") {
		t.Fatalf("Create = %v, want exhausted", err)
	}
	if got := names(t, dir); len(got) != 1 || len(names(t, filepath.Join(dir, "seeds"))) != 0 {
		t.Fatalf("left behind: %v", got)
	}
}

// count is a slog.Handler that counts messages.
type count struct {
	slog.Handler
	mu   sync.Mutex
	seen map[string]int
}

func newCount() *count { return &count{Handler: slog.DiscardHandler, seen: map[string]int{}} }

func (c *count) Enabled(context.Context, slog.Level) bool { return true }

func (c *count) Handle(_ context.Context, r slog.Record) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen[r.Message]++
	return nil
}

func TestDisksMadeAtOnceShareOneSeed(t *testing.T) {
	t.Parallel()
	needs.E2fsprogs(t)
	dir, seeds, log := t.TempDir(), t.TempDir(), newCount()
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			path := filepath.Join(dir, fmt.Sprint(i))
			if err := disk.Create(context.Background(), path, smallDisk, newKey(), disk.Options{Seeds: seeds, Log: slog.New(log)}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := names(t, seeds); len(got) != 1 || log.seen["seed made"] != 1 {
		t.Fatalf("seeds %v, made %d times", got, log.seen["seed made"])
	}
}

func TestDamagedSeedIsMadeAnew(t *testing.T) {
	t.Parallel()
	needs.E2fsprogs(t)
	seeds, log := t.TempDir(), newCount()
	o := disk.Options{Seeds: seeds, Log: slog.New(log)}
	create(t, smallDisk, newKey(), o)
	path := filepath.Join(seeds, names(t, seeds)[0])
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(whole)
	flipped[len(flipped)/2] ^= 1
	for i, content := range [][]byte{nil, whole[:len(whole)/2], flipped} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		create(t, smallDisk, newKey(), o)
		if log.seen["seed made"] != i+2 {
			t.Fatalf("case %d: the damaged seed was used", i)
		}
	}
	create(t, smallDisk, newKey(), o)
	if log.seen["seed made"] != 4 {
		t.Fatal("the seed made last was not used")
	}
}

func TestUnfinishedSeedOfAKilledProcessIsSwept(t *testing.T) {
	t.Parallel()
	needs.E2fsprogs(t)
	seeds := t.TempDir()
	old, fresh := filepath.Join(seeds, ".seed-1"), filepath.Join(seeds, ".seed-2")
	for _, name := range []string{old, fresh} {
		if err := os.WriteFile(name, []byte("half a seed"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	hourAgo := time.Now().Add(-time.Hour)
	if err := os.Chtimes(old, hourAgo, hourAgo); err != nil {
		t.Fatal(err)
	}
	create(t, smallDisk, newKey(), disk.Options{Seeds: seeds})
	if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the leftover is still there: %v", err)
	}
	if _, err := os.Stat(fresh); err != nil {
		t.Errorf("a seed that another process is just making was removed: %v", err)
	}
}

func TestCacheOfSeedsIsBounded(t *testing.T) {
	t.Parallel()
	needs.E2fsprogs(t)
	seeds := t.TempDir()
	for i := range 80 {
		name := filepath.Join(seeds, fmt.Sprintf("%d.seed", i))
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(time.Duration(i-100) * time.Minute)
		if err := os.Chtimes(name, at, at); err != nil {
			t.Fatal(err)
		}
	}
	create(t, smallDisk, newKey(), disk.Options{Seeds: seeds})
	got := names(t, seeds)
	if len(got) != 64 {
		t.Fatalf("%d seeds in the cache, want 64", len(got))
	}
	for _, name := range got {
		if name == "0.seed" || name == "16.seed" {
			t.Errorf("the old %s was kept for a newer one", name)
		}
	}
}

func BenchmarkCreate(b *testing.B) {
	for _, size := range []int64{64 << 20, 2 << 30, 8 << 30, 200 << 30, 2 << 40} {
		b.Run(fmt.Sprintf("%dMiB", size>>20), func(b *testing.B) {
			needs.E2fsprogs(b)
			dir, seeds, key := b.TempDir(), b.TempDir(), newKey()
			path := filepath.Join(dir, "disk.raw")
			for b.Loop() {
				if err := disk.Create(b.Context(), path, size, key, disk.Options{Seeds: seeds}); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := disk.Wipe(path); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}
