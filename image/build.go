package image

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
)

// BuildOptions say how to build.
type BuildOptions struct {
	Progress func(dayfly.Progress) // never called twice at the same time
	Mirror   string                // URL of a Debian mirror; default mmdebstrap's
}

// debArch is the architecture of the virtual machines in Debian's words.
const debArch = "amd64"

// Build makes an image from a recipe, with packages from a Debian mirror. It
// takes a minute or two. Unavailable says that mmdebstrap is not installed or
// the mirror cannot be reached.
func (s *Store) Build(ctx context.Context, r Recipe, o BuildOptions) (dayfly.Image, error) {
	img, err := s.buildRecipe(ctx, r, o)
	return img, s.hostError("build "+r.Name, within("build "+r.Name, err))
}

func (s *Store) buildRecipe(ctx context.Context, r Recipe, o BuildOptions) (dayfly.Image, error) {
	if err := r.check(); err != nil {
		return dayfly.Image{}, err
	}
	n, err := plainName(r.Name)
	if err != nil {
		return dayfly.Image{}, err
	}
	if os.Geteuid() != 0 {
		return dayfly.Image{}, dayfly.Errorf(dayfly.Denied, "installing packages into an image takes the rights of root: run as root")
	}
	t, err := s.scratch()
	if err != nil {
		return dayfly.Image{}, err
	}
	defer t.remove()
	report := &reporter{to: o.Progress}
	if err := s.debootstrap(ctx, r, t, o, report); err != nil {
		return dayfly.Image{}, err
	}
	f, err := s.oneLayer(ctx, t.path("rootfs.tar"), r.Config)
	if err != nil {
		return dayfly.Image{}, err
	}
	return s.prepare(ctx, f, n, report)
}

// debootstrap installs the packages and leaves the result as a tar archive. It
// runs mmdebstrap in a mount namespace of that program's own, below the scratch
// directory, so that even when it is killed no mount outlives it.
func (s *Store) debootstrap(ctx context.Context, r Recipe, t *scratch, o BuildOptions, report *reporter) error {
	path, err := exec.LookPath("mmdebstrap")
	if err != nil {
		return dayfly.Errorf(dayfly.Unavailable, "mmdebstrap is not installed: install it (apt-get install mmdebstrap), "+
			"or import an image that exists (dayfly image pull, dayfly image import)")
	}
	if err := os.WriteFile(t.path("setup"), []byte(r.Setup), 0o700); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path, r.arguments(t, o)...)
	cmd.Env = append(cmd.Environ(), "TMPDIR="+t.dir, "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it cleans up after itself
	cmd.WaitDelay = 10 * time.Second
	said := &narrator{report: report}
	cmd.Stdout, cmd.Stderr = said, said
	err = runTied(cmd)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case strings.Contains(said.tail(), "No space left on device"):
		return fmt.Errorf("mmdebstrap: %w", unix.ENOSPC)
	}
	e := dayfly.Errorf(dayfly.Unavailable, "mmdebstrap ended with %v: check that the Debian mirror can be reached from here; its last words: %s", err, said.tail())
	e.Err = err
	return e
}

// arguments of mmdebstrap.
func (r Recipe) arguments(t *scratch, o BuildOptions) []string {
	args := []string{
		"--mode=root", "--format=tar", "--variant=" + r.Variant, "--architectures=" + debArch,
		"--include=" + strings.Join(r.Packages, ","),
		`--aptopt=Acquire::Languages "none"`,
		`--customize-hook=` + shellQuote(t.path("setup")) + ` "$1"`, //nolint:misspell // its name
	}
	for _, p := range r.Exclude {
		args = append(args, "--dpkgopt=path-exclude="+p)
	}
	for _, p := range r.Include {
		args = append(args, "--dpkgopt=path-include="+p)
	}
	args = append(args, r.Suite, t.path("rootfs.tar"))
	if o.Mirror != "" {
		args = append(args, o.Mirror)
	}
	return args
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// narrator turns a program's output into progress and keeps the end of it.
type narrator struct {
	report *reporter
	line   bytes.Buffer
	last   []string
}

const (
	narratorLines = 12
	narratorLine  = 400 // bytes of a line that are kept
)

func (n *narrator) Write(p []byte) (int, error) {
	for _, c := range p {
		if c == '\n' || c == '\r' {
			n.say(strings.TrimSpace(n.line.String()))
			n.line.Reset()
		} else if n.line.Len() < narratorLine {
			n.line.WriteByte(c)
		}
	}
	return len(p), nil
}

func (n *narrator) say(line string) {
	if line == "" {
		return
	}
	if step, ok := strings.CutPrefix(line, "I: "); ok {
		n.report.step(step, 0)
		return
	}
	n.last = append(n.last, line)
	n.last = n.last[max(0, len(n.last)-narratorLines):]
}

func (n *narrator) tail() string { return strings.Join(n.last, "; ") }

// oneLayer makes an image of a root file system in a tar archive.
func (s *Store) oneLayer(ctx context.Context, file string, c dayfly.ImageConfig) (*found, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	size, err := io.Copy(h, &watched{ctx.Err, bufio.NewReader(f), func(int) {}})
	if err != nil {
		return nil, err
	}
	layer := v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}
	config, err := json.Marshal(v1.ConfigFile{
		OS: "linux", Architecture: debArch, Created: v1.Time{Time: time.Now().UTC().Truncate(time.Second)},
		RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{layer}},
		Config: v1.Config{
			Env: c.Env, Entrypoint: c.Entrypoint, Cmd: c.Cmd, User: c.User, WorkingDir: c.Workdir, StopSignal: c.StopSignal,
		},
	})
	if err != nil {
		return nil, err
	}
	m := v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1,
		Config: v1.Descriptor{MediaType: types.OCIConfigJSON, Size: int64(len(config)), Digest: v1.Hash{Algorithm: "sha256", Hex: sum(config)}},
		Layers: []v1.Descriptor{{MediaType: types.OCIUncompressedLayer, Size: size, Digest: layer}},
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	return &found{
		hex: sum(raw), manifest: raw, config: config, layers: m.Layers, diffIDs: []v1.Hash{layer},
		content: fileContent(file),
	}, nil
}

// fileContent is content of one blob.
type fileContent string

func (f fileContent) open(context.Context, v1.Descriptor) (io.ReadCloser, error) {
	return os.Open(string(f))
}
