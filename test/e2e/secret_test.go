package e2e

import (
	"bytes"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// keep runs a script in a workspace that is kept, and returns its id.
func keep(t *testing.T, state, script string) string {
	t.Helper()
	r := dayfly(t, state, "run", "--keep", "--disk", "256M", "base", "--", "sh", "-c", script)
	if r.code != 0 {
		t.Fatalf("run = %+v", r)
	}
	id := strings.TrimSpace(dayfly(t, state, "ls", "--quiet").stdout)
	if !strings.Contains(r.stderr, id) || strings.ContainsAny(id, " \n") {
		t.Fatalf("kept %q, but stderr says: %s", id, r.stderr)
	}
	return id
}

// marker is a text that occurs nowhere else. It is put together in the guest,
// so that no argument or record holds it.
const (
	markerScript = `m=$(printf 'dayfly-%s-%s' marker 7c1f9e); for i in $(seq 4096); do echo "$m $i"; done > /home/user/secret; sync`
	marker       = "dayfly-marker-7c1f9e"
)

// TestNothingOfTheGuestIsReadableOnTheHost: what a guest wrote and synced is in
// no file below the state directory.
func TestNothingOfTheGuestIsReadableOnTheHost(t *testing.T) {
	t.Parallel()
	state := newState(t)
	id := keep(t, state, markerScript)
	disk := filepath.Join(state, "workspaces", id, "disk")
	if st, err := os.Stat(disk); err != nil || st.Size() != 256<<20 {
		t.Fatalf("disk: %v, %v", st, err)
	}
	files := 0
	err := filepath.WalkDir(state, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.HasPrefix(path, filepath.Join(state, "images")) || strings.HasPrefix(path, filepath.Join(state, "kernels")) {
			return err
		}
		files++
		b, err := os.ReadFile(path)
		plain := []string{marker}
		if strings.HasPrefix(path, filepath.Join(state, "workspaces")) {
			// The name of the file, and names every disk has; seeds are empty file
			// systems and no secret, and a template is nobody's memory.
			plain = append(plain, "secret", "lost+found", "upper")
		}
		for _, text := range plain {
			if bytes.Contains(b, []byte(text)) {
				t.Errorf("%s holds %q in the clear", path, text)
			}
		}
		return err
	})
	if err != nil || files == 0 {
		t.Fatalf("%d files: %v", files, err)
	}
	if r := dayfly(t, state, "rm", id); r.code != 0 {
		t.Fatalf("rm = %+v", r)
	}
}

// TestEqualContentHasDifferentCiphertext: two workspaces that wrote the same
// have no block in common.
func TestEqualContentHasDifferentCiphertext(t *testing.T) {
	t.Parallel()
	state := newState(t)
	const block = 4096
	seen := map[string]string{}
	for range 2 {
		id := keep(t, state, markerScript)
		b, err := os.ReadFile(filepath.Join(state, "workspaces", id, "disk"))
		if err != nil {
			t.Fatal(err)
		}
		written := 0
		for off := 0; off+block <= len(b); off += block {
			blk := b[off : off+block]
			if bytes.Count(blk, []byte{0}) == block {
				continue // a hole
			}
			written++
			if other, ok := seen[string(blk)]; ok && other != id {
				t.Fatalf("block %d of %s is also one of %s: %s…", off/block, id, other, hex.EncodeToString(blk[:16]))
			}
			seen[string(blk)] = id
		}
		if written < 16 {
			t.Fatalf("only %d blocks were written", written)
		}
		if r := dayfly(t, state, "rm", id); r.code != 0 {
			t.Fatalf("rm = %+v", r)
		}
	}
}

// TestForgottenKeyIsTheWipe: with its key file gone a disk opens no more, even
// where a copy of it survived.
func TestForgottenKeyIsTheWipe(t *testing.T) {
	t.Parallel()
	state := newState(t)
	id := keep(t, state, markerScript)
	home := filepath.Join(state, "workspaces", id)
	key, err := os.ReadFile(filepath.Join(home, "key"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(home, "key")); err != nil {
		t.Fatal(err)
	}
	r := dayfly(t, state, "exec", id, "--", "cat", "/home/user/secret")
	if r.code != 125 || strings.Contains(r.stdout, marker) || !strings.Contains(r.stderr, "key") {
		t.Errorf("without its key: %+v", r)
	}
	if err := os.WriteFile(filepath.Join(home, "key"), key, 0o600); err != nil {
		t.Fatal(err)
	}
	r = dayfly(t, state, "exec", id, "--", "head", "-1", "/home/user/secret")
	if r.code != 0 || !strings.HasPrefix(r.stdout, marker) {
		t.Errorf("with its key: %+v", r)
	}
	if r := dayfly(t, state, "rm", id); r.code != 0 {
		t.Fatalf("rm = %+v", r)
	}
}
