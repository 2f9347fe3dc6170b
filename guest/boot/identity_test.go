package boot

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/guest/wire"
)

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestNamesOfAStoppedWorkspaceStay(t *testing.T) {
	t.Parallel()
	lower, upper := t.TempDir(), filepath.Join(t.TempDir(), "etc")
	id, err := writeNames(lower, upper, "one")
	if err != nil || read(t, upper+"/machine-id") != id+"\n" || read(t, upper+"/hostname") != "one\n" {
		t.Fatalf("writeNames = %q, %v", id, err)
	}
	again, err := writeNames(lower, upper, "two")
	if err != nil || again != id || read(t, upper+"/hostname") != "one\n" {
		t.Errorf("again: %q, %v", again, err)
	}
}

func TestNewMachineIDKeepsLinksAndMissingFiles(t *testing.T) {
	t.Parallel()
	etc := t.TempDir()
	r := &renewing{in: &wire.Renew{Identity: wire.IdentityNew}, etc: etc}
	if got, err := r.machineID(t.Context()); err != nil || got != noMachineID {
		t.Errorf("missing: %q, %v", got, err)
	}
	target := filepath.Join(t.TempDir(), "target")
	write(t, target, "kept\n")
	if err := os.Symlink(target, etc+"/machine-id"); err != nil {
		t.Fatal(err)
	}
	if got, err := r.machineID(t.Context()); err != nil || got != linkMachineID || read(t, target) != "kept\n" {
		t.Errorf("link: %q, %v", got, err)
	}
	if err := os.Remove(etc + "/machine-id"); err != nil {
		t.Fatal(err)
	}
	write(t, etc+"/machine-id", "0123456789abcdef0123456789abcdef and more\n")
	got, err := r.machineID(t.Context())
	if err != nil || len(got) != 32 || read(t, etc+"/machine-id") != got+"\n" {
		t.Errorf("file: %q, %v; it holds %q", got, err, read(t, etc+"/machine-id"))
	}
	r.in.Identity = wire.IdentitySame
	if same, err := r.machineID(t.Context()); err != nil || same != got {
		t.Errorf("same: %q, %v; want %q", same, err, got)
	}
}

func TestGenerationIsReplacedWhole(t *testing.T) {
	t.Parallel()
	r := &renewing{in: &wire.Renew{Generation: "g-1"}, run: filepath.Join(t.TempDir(), "run")}
	path := filepath.Join(r.run, generationFile)
	for _, c := range []struct {
		id     string
		before func() error // what the workspace made of it
	}{
		{"g-1", nil},
		{"longer-than-before", nil},
		{"g-2", nil},
		{"g-3", func() error { return os.WriteFile(path, bytes.Repeat([]byte("x"), 9000), 0o600) }},
		{"g-4", func() error { return os.Remove(path) }},
		{"g-5", func() error { return errors.Join(os.Remove(path), os.Symlink("/dev/null", path)) }},
		{"g-6", func() error { return errors.Join(os.Remove(path), unix.Mkfifo(path, 0o600)) }},
	} {
		r.in.Generation = c.id
		if c.before != nil {
			if err := c.before(); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := r.generation(t.Context()); err != nil || got != c.id || read(t, path) != c.id+"\n" {
			t.Errorf("generation = %q, %v, and the file has %q; want %q", got, err, read(t, path), c.id)
		}
	}
	if entries, _ := os.ReadDir(r.run); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

// TestRenewalConfirmsWhatTheHostRequires: the table and the host's list agree.
func TestRenewalConfirmsWhatTheHostRequires(t *testing.T) {
	t.Parallel()
	var names []string
	for _, st := range renewal {
		names = append(names, st.name)
	}
	if want := wire.RequiredConfirmations(); !slices.Equal(names, want) {
		t.Errorf("steps are %q, want %q", names, want)
	}
}

func TestRenewIsRefusedBeforeItBegins(t *testing.T) {
	t.Parallel()
	good := wire.Renew{Generation: "g-1", Identity: wire.IdentityNew, ID: "w", Entropy: make([]byte, wire.MinEntropy), Timestamp: "t"}
	if err := checkRenew(&good); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*wire.Renew){
		"no generation":   func(r *wire.Renew) { r.Generation = "" },
		"two lines":       func(r *wire.Renew) { r.Generation = "a\nb" },
		"no identity":     func(r *wire.Renew) { r.Identity = "" },
		"nobody":          func(r *wire.Renew) { r.ID = "" },
		"little entropy":  func(r *wire.Renew) { r.Entropy = r.Entropy[1:] },
		"no time":         func(r *wire.Renew) { r.Timestamp = "" },
		"long generation": func(r *wire.Renew) { r.Generation = string(make([]byte, 65)) },
	} {
		r := good
		spoil(&r)
		if checkRenew(&r) == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestNamesOfAnotherAreForgotten(t *testing.T) {
	t.Parallel()
	lower, upper := t.TempDir(), filepath.Join(t.TempDir(), "etc")
	first, err := writeNames(lower, upper, "one")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(upper, "hosts"), []byte("of its own\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := forgetStrays(upper, []string{"two", "three"}); err != nil { // which it is not named after
		t.Fatal(err)
	}
	if same, err := readMachineID(filepath.Join(upper, "machine-id")); err != nil || same != first {
		t.Errorf("machine id is %q, %v; want %q", same, err, first)
	}
	if err := forgetStrays(upper, []string{"two", "one"}); err != nil {
		t.Fatal(err)
	}
	second, err := writeNames(lower, upper, "two")
	if err != nil || second == first {
		t.Errorf("machine id %q after %q, %v", second, first, err)
	}
	for name, want := range map[string]string{"hostname": "two\n", "hosts": "of its own\n"} {
		if got, err := os.ReadFile(filepath.Join(upper, name)); err != nil || string(got) != want {
			t.Errorf("%s holds %q, %v; want %q", name, got, err, want)
		}
	}
}
