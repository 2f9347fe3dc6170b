package disk_test

import (
	"crypto/aes"
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/xts"
	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/disk"
	"github.com/dayfly/dayfly/keyring"
	"github.com/dayfly/dayfly/test/needs"
)

// asGuestSees writes beside path what a guest reads through dm-crypt: every
// block decrypted, the never written ones, too, which come out as garbage.
// limit bounds the garbage: beyond that many blocks holes stay holes.
func asGuestSees(t *testing.T, path string, key *keyring.Key, limit int64) string {
	t.Helper()
	c, err := xts.NewCipher(aes.NewCipher, key[:])
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	plain := filepath.Join(t.TempDir(), "plain.raw")
	out, err := os.Create(plain)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := out.Truncate(st.Size()); err != nil {
		t.Fatal(err)
	}
	decrypt := func(off int64, b []byte) {
		for i := 0; i < len(b); i += disk.BlockSize {
			c.Decrypt(b[i:i+disk.BlockSize], b[i:i+disk.BlockSize], uint64(off+int64(i))/disk.BlockSize)
		}
		if _, err := out.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
	}
	for off := int64(0); off < min(st.Size(), limit*disk.BlockSize); off += 1 << 20 {
		decrypt(off, make([]byte, 1<<20))
	}
	eachData(t, path, decrypt)
	return plain
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestFreshDiskIsAWholeExt4(t *testing.T) {
	t.Parallel()
	fsck := needs.E2fsprogs(t)
	debugfs := filepath.Join(filepath.Dir(fsck), "debugfs")
	for _, size := range []int64{smallDisk, 65 << 20, 256 << 20, 2 << 30, 8 << 30, 200 << 30, 2 << 40} {
		key := newKey()
		plain := asGuestSees(t, create(t, size, key, disk.Options{Seeds: t.TempDir()}), key, 1<<14)
		run(t, fsck, "-f", "-n", plain)
		if got := run(t, debugfs, "-R", "stat <2>", plain); !strings.Contains(got, "Mode:  0755") || !strings.Contains(got, "User:     0") {
			t.Errorf("%d bytes: root directory is not root's with mode 0755:\n%s", size, got)
		}
		if got := run(t, debugfs, "-R", "ls -p /", plain); !strings.Contains(got, "/lost+found/") {
			t.Errorf("%d bytes: root directory holds\n%s", size, got)
		}
		if got := run(t, debugfs, "-R", "logdump", plain); !strings.Contains(got, "Journal starts at block 0") {
			t.Errorf("%d bytes: the journal is not empty, the guest would replay garbage:\n%s", size, got)
		}
	}
}

// TestGarbageNeverReachesAFile lets the host's kernel use the disk as a
// guest's would, with garbage wherever nothing was written.
func TestGarbageNeverReachesAFile(t *testing.T) {
	t.Parallel()
	fsck := needs.E2fsprogs(t)
	needs.Loop(t)
	key := newKey()
	const size = 256 << 20
	plain := asGuestSees(t, create(t, size, key, disk.Options{}), key, size/disk.BlockSize)
	for round := range 2 { // the second mount meets what the first left
		dir := t.TempDir()
		run(t, "mount", "-o", "loop,noinit_itable", plain, dir)
		err := useFileSystem(dir, round)
		run(t, "umount", dir)
		if err != nil {
			t.Fatal(err)
		}
		run(t, fsck, "-f", "-n", plain)
	}
}

// useFileSystem fills directories and files in every block group, and reads
// back sparse ones, whose holes must be zeros.
func useFileSystem(dir string, round int) error {
	top := filepath.Join(dir, string(rune('a'+round)))
	for i := range 40 {
		sub := filepath.Join(top, strings.Repeat("d", i+1), "sub")
		if err := os.MkdirAll(sub, 0o755); err != nil {
			return err
		}
		for j := range 60 {
			name := filepath.Join(sub, strings.Repeat("f", j+1))
			if err := os.WriteFile(name, make([]byte, 100*j), 0o644); err != nil {
				return err
			}
			if j%3 == 0 {
				if err := os.Remove(name); err != nil {
					return err
				}
			}
		}
	}
	f, err := os.Create(filepath.Join(top, "sparse"))
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, 1<<20)
	_, _ = rand.Read(b)
	for i := range int64(20) {
		if _, err := f.WriteAt(b, i*3<<20); err != nil {
			return err
		}
	}
	if err := unix.Fallocate(int(f.Fd()), 0, 60<<20, 8<<20); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	hole := make([]byte, 1<<20)
	for _, off := range []int64{1 << 20, 2 << 20, 61 << 20, 66 << 20} {
		if _, err := f.ReadAt(hole, off); err != nil {
			return err
		}
		for _, c := range hole {
			if c != 0 {
				return errors.New("a hole holds garbage")
			}
		}
	}
	return os.RemoveAll(filepath.Join(top, "d"))
}
