package kernel

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed" // the fragment
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/dayfly/dayfly"
)

// DefaultSource is where Debian's package linux-source-6.12 puts the kernel's source.
const DefaultSource = "/usr/src/linux-source-6.12.tar.xz"

// buildVersion is part of what a build is known by: raise it when the recipe changes.
const buildVersion = 1

// fragment is what is on in a tuned kernel.
//
//go:embed dayfly.config
var fragment []byte

// BuildOptions says how to compile a kernel. The zero value works.
type BuildOptions struct {
	Source   string                // a tarball of the kernel's source; "" means DefaultSource
	Jobs     int                   // compilers at once; 0 means 2
	Progress func(dayfly.Progress) // may be nil; Done and Total of the step "compile" count files
	Log      io.Writer             // gets everything the compiler says; may be nil
}

// Build compiles a tuned kernel: Linux with every option off but those of our
// fragment, and with our edits. It takes minutes, 3 GB of disk while it runs, and returns at once if
// the same source, fragment, edits and compiler have been built before. One build
// runs in a store at a time; others wait. The error is NotFound without the
// source and Unavailable without the tools; both say what to install.
func (s *Store) Build(ctx context.Context, o BuildOptions) (dayfly.Kernel, error) {
	o = o.withDefaults()
	key, err := buildKey(ctx, o)
	if err != nil {
		return dayfly.Kernel{}, err
	}
	if rec, ok, err := s.byDigest(ctx, key); ok || err != nil {
		return rec.Kernel, err
	}
	unlock, err := lockDir(ctx, s.kernels())
	if err != nil {
		return dayfly.Kernel{}, fmt.Errorf("kernel: build: %w", err)
	}
	defer unlock()
	if rec, ok, err := s.byDigest(ctx, key); ok || err != nil { // built while we waited
		return rec.Kernel, err
	}
	rec, err := s.build(ctx, o, key)
	if err != nil {
		return dayfly.Kernel{}, fmt.Errorf("kernel: build: %w", err)
	}
	return s.get(ctx, rec.ID)
}

func (o BuildOptions) withDefaults() BuildOptions {
	if o.Source == "" {
		o.Source = DefaultSource
	}
	if o.Jobs <= 0 {
		o.Jobs = 2
	}
	if o.Progress == nil {
		o.Progress = func(dayfly.Progress) {}
	}
	if o.Log == nil {
		o.Log = io.Discard
	}
	return o
}

// buildKey is a digest of everything the result depends on.
func buildKey(ctx context.Context, o BuildOptions) (string, error) {
	if err := checkTools(); err != nil {
		return "", err
	}
	source, err := fileDigest(o.Source)
	if errors.Is(err, os.ErrNotExist) {
		return "", &dayfly.Error{Kind: dayfly.NotFound, Err: err,
			Msg: "kernel: build: no kernel source: \"apt-get install linux-source-6.12\" brings it (Debian 12: from bookworm-security or -backports)"}
	}
	if err != nil {
		return "", fmt.Errorf("kernel: build: source: %w", err)
	}
	compiler, err := compilerVersion(ctx)
	if err != nil {
		return "", fmt.Errorf("kernel: build: compiler: %w", err)
	}
	h := sha256.New() // recipe's parts among it, written out: what was built before it was noted keeps its key
	fmt.Fprintf(h, "%d\n%s\n%s\n%s\n%q", buildVersion, source, compiler, settings(fragment), edits)
	return "build:" + hex.EncodeToString(h.Sum(nil)), nil
}

// recipe is a digest of what this release makes of any source.
func recipe() string {
	h := sha256.New()
	fmt.Fprintf(h, "%d\n%s\n%q", buildVersion, settings(fragment), edits)
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// settings returns the lines of a fragment that say something, "# CONFIG_X is
// not set" among them: a better comment is no reason to compile for minutes.
func settings(fragment []byte) []byte {
	var b []byte
	for line := range bytes.Lines(fragment) {
		if bytes.HasPrefix(bytes.TrimPrefix(line, []byte("# ")), []byte("CONFIG_")) {
			b = append(b, line...)
		}
	}
	return b
}

func (s *Store) build(ctx context.Context, o BuildOptions, key string) (record, error) {
	j, err := s.newJob("build")
	if err != nil {
		return record{}, err
	}
	defer j.remove()
	c := compilation{dir: j.path("linux"), opts: o, fragment: j.path("dayfly.config")}
	if err := os.WriteFile(c.fragment, fragment, 0o600); err != nil {
		return record{}, err
	}
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"unpack source", c.unpack},
		{"edit source", c.edit},
		{"configure", c.configure},
		{"compile", c.compile},
		{"strip", c.strip},
	} {
		o.Progress(dayfly.Progress{Step: step.name})
		if err := step.do(ctx); err != nil {
			return record{}, fmt.Errorf("%s: %w", step.name, err)
		}
	}
	rec, err := c.collect(j.path("kernel"))
	if err != nil {
		return record{}, err
	}
	rec.Source, rec.Digest, rec.Recipe = filepath.Base(o.Source), key, recipe()
	return rec, s.add(j.path("kernel"), rec)
}
