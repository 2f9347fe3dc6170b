package e2e

import (
	"archive/tar"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// bareImage is an image of one static program and nothing else, saved as docker
// save does: no shell, no accounts, no /etc.
func bareImage(t *testing.T) *bytes.Buffer {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(`package main

import (
	"fmt"
	"os"
)

func main() {
	wd, _ := os.Getwd()
	fmt.Println(len(os.Args), os.Args[1:], os.Getuid(), os.Getgid(), os.Getenv("FROM"), wd)
}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, "app"), filepath.Join(dir, "main.go"))
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	app, err := os.ReadFile(filepath.Join(dir, "app"))
	if err != nil {
		t.Fatal(err)
	}
	layer := static.NewLayer(oneFile(t, "bin/app", app), types.DockerUncompressedLayer)
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	img, err = mutate.ConfigFile(img, &v1.ConfigFile{
		OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers", DiffIDs: diffIDs(t, img)},
		Config: v1.Config{Entrypoint: []string{"/bin/app"}, Cmd: []string{"one"}, Env: []string{"FROM=image"}, User: "7:8", WorkingDir: "/srv/data"},
	})
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if err := tarball.Write(name.MustParseReference("bare:1"), img, &buf); err != nil {
		t.Fatal(err)
	}
	return &buf
}

// oneFile is a layer with one executable in it.
func oneFile(t *testing.T, path string, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: path, Mode: 0o755, Size: int64(len(content))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func diffIDs(t *testing.T, img v1.Image) []v1.Hash {
	t.Helper()
	f, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	return f.RootFS.DiffIDs
}

// TestImportedImageRunsAsItsConfigSays: entrypoint, command, user, directory and
// environment are the image's, and an image without a shell is no obstacle.
func TestImportedImageRunsAsItsConfigSays(t *testing.T) {
	t.Parallel()
	state := newState(t)
	if r := dayflyIn(t, state, bareImage(t), "image", "import"); r.code != 0 {
		t.Fatalf("import = %+v", r)
	}
	if r := dayfly(t, state, "run", "bare:1"); r.code != 0 || r.stdout != "2 [one] 7 8 image /srv/data\n" {
		t.Errorf("run = %+v", r)
	}
	if r := dayfly(t, state, "run", "-u", "0", "-w", "/", "bare:1", "two", "three"); r.code != 0 || r.stdout != "3 [two three] 0 0 image /\n" {
		t.Errorf("run with a command = %+v", r)
	}
	if r := dayfly(t, state, "exec", "no-such-id", "--", "true"); r.code != 125 {
		t.Errorf("exec = %+v", r)
	}
	if r := dayfly(t, state, "image", "rm", "bare:1"); r.code != 0 {
		t.Errorf("rm = %+v", r)
	}
	if r := dayfly(t, state, "run", "--pull", "never", "bare:1"); r.code != 125 || !strings.Contains(r.stderr, "image") {
		t.Errorf("run of a removed image = %+v", r)
	}
}
