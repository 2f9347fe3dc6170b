package keyring_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/keyring"
)

const workspace = "wabcdefghijklmnopqrst"

func open(t *testing.T, dir string) *keyring.Ring {
	t.Helper()
	r, err := keyring.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func create(t *testing.T, r *keyring.Ring, path string) *keyring.Key {
	t.Helper()
	k, err := r.Create(t.Context(), path, workspace)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func names(t *testing.T, dir string) []string {
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

func TestKeyOutlivesItsRing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "disk.key")
	want := create(t, open(t, dir), path)
	got, err := open(t, dir).Load(t.Context(), path, workspace)
	if err != nil {
		t.Fatal(err)
	}
	if *got != *want || *got == (keyring.Key{}) {
		t.Fatal("the key came back changed or empty")
	}
	for _, name := range []string{path, filepath.Join(dir, keyring.MasterFile)} {
		st, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o, want 600", name, st.Mode().Perm())
		}
	}
}

func TestKeyIsOnDiskOnlyWrapped(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	key := create(t, open(t, dir), filepath.Join(dir, "disk.key"))
	for _, name := range names(t, dir) {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i+16 <= len(key); i += 16 {
			if bytes.Contains(content, key[i:i+16]) {
				t.Errorf("%s holds bytes %d to %d of the key", name, i, i+16)
			}
		}
	}
}

func TestAdoptedKeyHasALifeOfItsOwn(t *testing.T) {
	t.Parallel()
	const fork = "wtsrqponmlkjihgfedcba"
	dir := t.TempDir()
	r := open(t, dir)
	path, adopted := filepath.Join(dir, "disk.key"), filepath.Join(dir, "fork.key")
	key := create(t, r, path)
	if err := r.Adopt(t.Context(), adopted, fork, key); err != nil {
		t.Fatal(err)
	}
	if err := r.Adopt(t.Context(), adopted, fork, new(keyring.Key)); dayfly.KindOf(err) != dayfly.Conflict {
		t.Fatalf("Adopt over a key = %v, want a conflict", err)
	}
	if _, err := r.Load(t.Context(), adopted, workspace); !errors.Is(err, keyring.ErrCorrupted) {
		t.Fatalf("Load with the first context = %v, want %v", err, keyring.ErrCorrupted)
	}
	if err := r.Forget(path); err != nil {
		t.Fatal(err)
	}
	got, err := open(t, dir).Load(t.Context(), adopted, fork)
	if err != nil || *got != *key {
		t.Fatalf("the adopted key came back changed, or not: %v", err)
	}
	if st, err := os.Stat(adopted); err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("mode of the adopted key: %v, %v", st.Mode(), err)
	}
	if err := keyring.New(failing{}).Adopt(t.Context(), path, fork, key); dayfly.KindOf(err) != dayfly.Unavailable {
		t.Fatalf("Adopt = %v", err)
	}
	if left := names(t, dir); len(left) != 2 { // the master key and the adopted one
		t.Fatalf("left behind: %v", left)
	}
}

func TestNoTwoKeysAreEqual(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := open(t, dir)
	a, b := create(t, r, filepath.Join(dir, "a")), create(t, r, filepath.Join(dir, "b"))
	if *a == *b {
		t.Fatal("two fresh keys are equal")
	}
}

func TestForgottenKeyCannotBeLoaded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := open(t, dir)
	path, link := filepath.Join(dir, "disk.key"), filepath.Join(dir, "link")
	create(t, r, path)
	if err := os.Link(path, link); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(dir, ".disk.key.123.tmp") // as a process killed in Create leaves it
	if err := os.WriteFile(left, []byte("half a key"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // forgetting twice is fine
		if err := r.Forget(path); err != nil {
			t.Fatal(err)
		}
	}
	_, err := r.Load(t.Context(), path, workspace)
	if !errors.Is(err, keyring.ErrNotFound) || dayfly.KindOf(err) != dayfly.NotFound {
		t.Fatalf("Load = %v, want not found", err)
	}
	if _, err := r.Load(t.Context(), link, workspace); !errors.Is(err, keyring.ErrNotFound) {
		t.Fatalf("Load through another link = %v, want a forgotten key", err)
	}
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", left, err)
	}
}

func TestForgetOfWhatNeverWasIsFine(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := open(t, dir).Forget(filepath.Join(dir, "gone", "disk.key")); err != nil {
		t.Fatal(err)
	}
}

func TestExistingKeyIsNeverReplaced(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := open(t, dir)
	path := filepath.Join(dir, "disk.key")
	want := create(t, r, path)
	if _, err := r.Create(t.Context(), path, workspace); dayfly.KindOf(err) != dayfly.Conflict {
		t.Fatalf("second Create = %v, want a conflict", err)
	}
	got, err := r.Load(t.Context(), path, workspace)
	if err != nil || *got != *want {
		t.Fatalf("the first key is gone: %v", err)
	}
	if got := names(t, dir); len(got) != 2 {
		t.Fatalf("left behind: %v", got)
	}
}

func TestLoadTellsWhatIsWrong(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := open(t, dir)
	path := filepath.Join(dir, "disk.key")
	create(t, r, path)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(whole)
	flipped[len(flipped)/2] ^= 1
	for _, c := range []struct {
		name    string
		ring    *keyring.Ring
		content []byte
		context string
		want    error
	}{
		{"another master key", open(t, t.TempDir()), whole, workspace, keyring.ErrWrongMaster},
		{"another workspace", r, whole, "wbbbbbbbbbbbbbbbbbbbb", keyring.ErrCorrupted},
		{"flipped bit", r, flipped, workspace, keyring.ErrCorrupted},
		{"truncated", r, whole[:len(whole)-1], workspace, keyring.ErrCorrupted},
		{"empty", r, nil, workspace, keyring.ErrCorrupted},
		{"something after it", r, append(bytes.Clone(whole), 0), workspace, keyring.ErrCorrupted},
		{"a huge file", r, make([]byte, 1<<20), workspace, keyring.ErrCorrupted},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "disk.key")
			if err := os.WriteFile(path, c.content, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := c.ring.Load(t.Context(), path, c.context); !errors.Is(err, c.want) {
				t.Fatalf("Load = %v, want %v", err, c.want)
			}
		})
	}
}

func TestMasterKeyReadableByOthersIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open(t, dir)
	path := filepath.Join(dir, keyring.MasterFile)
	for _, mode := range []os.FileMode{0o640, 0o604, 0o660, 0o644} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := keyring.Open(dir)
		if dayfly.KindOf(err) != dayfly.Denied || !strings.Contains(err.Error(), "chmod 600 "+path) {
			t.Errorf("mode %o: Open = %v, want a refusal with its remedy", mode, err)
		}
	}
}

func TestDamagedMasterKeyIsNeverReplaced(t *testing.T) {
	t.Parallel()
	for _, content := range []string{"", "dayfly-master-1:", "dayfly-master-1:AAAA\n", "dayfly-master-2:x", strings.Repeat("x", 1<<16)} {
		dir := t.TempDir()
		path := filepath.Join(dir, keyring.MasterFile)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := keyring.Open(dir); err == nil || !strings.Contains(err.Error(), "backup") {
			t.Errorf("Open of %.20q = %v, want a refusal", content, err)
		}
		if got, _ := os.ReadFile(path); string(got) != content {
			t.Errorf("Open changed %.20q", content)
		}
	}
}

func TestLeftoversOfAKilledMakerDoNotHurtTheMasterKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "disk.key")
	want := create(t, open(t, dir), path)
	// Killed between linking the name and removing the unfinished one.
	if err := os.Link(filepath.Join(dir, keyring.MasterFile), filepath.Join(dir, ".master.key.1.tmp")); err != nil {
		t.Fatal(err)
	}
	got, err := open(t, dir).Load(t.Context(), path, workspace)
	if err != nil || *got != *want {
		t.Fatalf("Load = %v, or the key changed", err)
	}
	if got := names(t, dir); len(got) != 2 {
		t.Fatalf("left behind: %v", got)
	}
}

// childDir tells a re-executed test binary to be one of many first openers.
const childDir = "DAYFLY_TEST_KEYRING_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		os.Exit(firstOpener(dir))
	}
	os.Exit(m.Run())
}

func firstOpener(dir string) int {
	_, _ = os.Stdin.Read(make([]byte, 1)) // all children wait for the same end of file
	r, err := keyring.Open(dir)
	if err == nil {
		_, err = r.Create(context.Background(), filepath.Join(dir, fmt.Sprintf("%d.key", os.Getpid())), workspace)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func TestProcessesThatOpenFirstShareOneMasterKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	var children []*exec.Cmd
	for range 8 {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env, cmd.Stdin, cmd.Stderr = append(os.Environ(), childDir+"="+dir), read, os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		children = append(children, cmd)
	}
	write.Close()
	for _, cmd := range children {
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	r, keys := open(t, dir), 0
	for _, name := range names(t, dir) {
		if strings.HasPrefix(name, ".") {
			t.Errorf("left behind: %s", name)
		}
		if name == keyring.MasterFile {
			continue
		}
		keys++
		if _, err := r.Load(t.Context(), filepath.Join(dir, name), workspace); err != nil {
			t.Error(err)
		}
	}
	if keys != len(children) {
		t.Fatalf("%d keys of %d", keys, len(children))
	}
}

func TestManyKeysAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := open(t, dir)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			path := filepath.Join(dir, fmt.Sprint(i))
			if _, err := r.Create(context.Background(), path, workspace); err != nil {
				t.Error(err)
			} else if _, err := r.Load(context.Background(), path, workspace); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestKeyIsNeverPrinted(t *testing.T) {
	t.Parallel()
	var k keyring.Key
	for i := range k {
		k[i] = 0xA7
	}
	type holder struct {
		Key keyring.Key
		Ptr *keyring.Key
	}
	var log bytes.Buffer
	timeless := &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr { // whose digits are any
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}
	slog.New(slog.NewJSONHandler(&log, timeless)).Info("m", "key", k, "ptr", &k, "in", holder{k, &k})
	slog.New(slog.NewTextHandler(&log, timeless)).Info("m", "key", k, "ptr", &k, "in", holder{k, &k})
	out := log.String()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%c", "%U"} {
		out += fmt.Sprintf(verb, k) + fmt.Sprintf(verb, &k) + fmt.Sprintf(verb, holder{Key: k}) + fmt.Sprintf(verb, []keyring.Key{k})
	}
	js, err := json.Marshal(holder{k, &k})
	if err != nil {
		t.Fatal(err)
	}
	out += string(js) + fmt.Sprint(k, k.GoString())
	for _, bad := range []string{"167", "a7", "A7", "247", "10100111", "§", "\xa7", "p6en"} {
		if strings.Contains(out, bad) {
			t.Errorf("printed %q: %s", bad, out)
		}
	}
}

func TestClearedKeyIsZero(t *testing.T) {
	t.Parallel()
	k := create(t, open(t, t.TempDir()), filepath.Join(t.TempDir(), "k"))
	k.Clear()
	if *k != (keyring.Key{}) {
		t.Fatal("the key is still there")
	}
}

// A wrapper that fails as a remote service does: nothing may be left on disk,
// and the error's kind must reach the caller.
type failing struct{}

func (failing) Wrap(context.Context, []byte, string) ([]byte, error) {
	return nil, dayfly.Errorf(dayfly.Unavailable, "key service does not answer")
}

func (failing) Unwrap(context.Context, []byte, string) ([]byte, error) {
	return nil, dayfly.Errorf(dayfly.Unavailable, "key service does not answer")
}

func TestUnreachableWrapperLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "disk.key")
	if _, err := keyring.New(failing{}).Create(t.Context(), path, workspace); dayfly.KindOf(err) != dayfly.Unavailable {
		t.Fatalf("Create = %v", err)
	}
	if got := names(t, dir); len(got) != 0 {
		t.Fatalf("left behind: %v", got)
	}
	create(t, open(t, t.TempDir()), path)
	if _, err := keyring.New(failing{}).Load(t.Context(), path, workspace); dayfly.KindOf(err) != dayfly.Unavailable {
		t.Fatalf("Load = %v", err)
	}
}

// TestVersion1LoadsForEver holds the formats of docs/formats/key.md: these
// files were written by the first release that had them.
func TestVersion1LoadsForEver(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{keyring.MasterFile, "disk.key"} {
		content, err := os.ReadFile(filepath.Join("testdata", "v1", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil { // git keeps no mode 0600
			t.Fatal(err)
		}
	}
	key, err := open(t, dir).Load(t.Context(), filepath.Join(dir, "disk.key"), workspace)
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range key {
		if int(b) != i {
			t.Fatalf("byte %d of the sample key is %d", i, b)
		}
	}
}
