// Package deps holds the arrows between Dayfly's packages: which layer each
// one is in and what of ours it may import.
//
// The test parses import lines itself. Asking the go command would be shorter,
// but its answer can come from the test cache after a forbidden import has been
// added; the files read here are part of the cache's key.
package deps

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/dayfly/dayfly"

// layer is a row of the table in docs/architecture.md.
type layer struct {
	name string
	why  string   // said when an arrow is refused
	in   []string // packages; a trailing /... takes in all below
	may  []string // what of ours they may import; "parent" is the folder above
}

const (
	root   = "."
	parent = "parent"
	all    = "..."
)

var words = []string{root, "undo", "flock", "keyring", "guest/wire"}

// layers is the architecture. A new package or arrow is an edit here, in the
// same change, and in docs/architecture.md.
var layers = []layer{
	{
		name: "words", why: "words are what every other package speaks in: they know none of them",
		in: words, may: []string{root},
	},
	{
		name: "mechanisms", why: "a mechanism does one thing and never knows another mechanism: node puts them together",
		in:  []string{"image", "kernel", "disk", "vmm", "guest", "jail", "snapshot", "template", "store", "host"},
		may: words,
	},
	{
		name: "parts", why: "a part belongs to the package above it and is used by that one alone",
		in: []string{"image/layer", "control/webhook"}, may: words,
	},
	{
		name: "drivers", why: "a driver knows its contract and the words, so that another can take its place",
		in:  []string{"vmm/qemu", "vmm/firecracker", "vmm/fake", "guest/agent", "guest/boot"},
		may: append([]string{parent}, words...),
	},
	{
		name: "suites", why: "a conformance suite knows the contract it tests and no implementation",
		in:  []string{"vmm/vmmtest/...", "vmm/firecracker/standin", "image/layer/layertest"},
		may: append([]string{parent, "test/needs"}, words...),
	},
	{
		name: "assembly", why: "node puts the mechanisms of a host together; drivers are handed to it",
		in:  []string{"node"},
		may: append([]string{"image", "kernel", "disk", "vmm", "guest", "jail", "snapshot", "template", "host"}, words...),
	},
	{
		name: "assembly", why: "a cell puts what a driver starts into a jail, and knows nothing of workspaces",
		in: []string{"node/cell"}, may: append([]string{"vmm", "jail"}, words...),
	},
	{
		name: "assembly", why: "control decides over what the store remembers and what a node does; the node is handed to it",
		in: []string{"control"}, may: append([]string{"store"}, words...),
	},
	{
		name: "edges", why: "an edge states what it needs as small interfaces, so that nothing behind it leaks to the wire",
		in: []string{"api", "client", "client/internal/rest"}, may: []string{root, "guest/wire"},
	},
	{
		name: "wiring", why: "",
		in: []string{"cmd/...", "bench/...", "test/..."}, may: []string{all},
	},
}

// within are arrows from a package to parts of its own.
var within = map[string][]string{
	"image":             {"image/layer"},
	"control":           {"control/webhook"},
	"node":              {"node/cell"},
	"client":            {"client/internal/rest"},
	"vmm/vmmtest":       {"vmm/vmmtest/script"},
	"vmm/vmmtest/guest": {"vmm/vmmtest/script"},

	"vmm/firecracker/standin": {"vmm/vmmtest/script"},
}

func TestArrowsPointDownwards(t *testing.T) {
	t.Parallel()
	for _, f := range sources(t) {
		if strings.HasSuffix(f.name, "_test.go") {
			continue
		}
		l := layerOf(f.pkg)
		if l == nil {
			t.Errorf("%s: package %s is in no layer: add it to the table in test/deps and to docs/architecture.md", f.name, f.pkg)
			continue
		}
		for _, spec := range f.syntax.Imports {
			target, ours := importOf(t, spec)
			if ours && target != f.pkg && !l.allows(f.pkg, target) {
				t.Errorf("%s: %s (%s) may not import %s: %s", f.name, f.pkg, l.name, target, l.why)
			}
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	t.Parallel()
	said := map[string]bool{}
	for _, f := range sources(t) {
		isTest := strings.HasSuffix(f.name, "_test.go")
		hasDoc := f.syntax.Doc != nil && len(strings.TrimSpace(f.syntax.Doc.Text())) > 0
		if !isTest || strings.HasPrefix(f.pkg, "test/") {
			said[f.pkg] = said[f.pkg] || hasDoc
		}
	}
	for pkg, ok := range said {
		if !ok {
			t.Errorf("package %s has no comment that says what it does, what it leaves to others, and what is always true", pkg)
		}
	}
}

// maxLines is where a file has to be asked what its second idea is.
const maxLines = 600

func TestNoFileHoldsTwoIdeas(t *testing.T) {
	t.Parallel()
	for _, f := range sources(t) {
		if lines := strings.Count(f.text, "\n"); lines > maxLines && !ast.IsGenerated(f.syntax) {
			t.Errorf("%s has %d lines: at %d, name the second idea and move it out", f.name, lines, maxLines)
		}
	}
}

// TestTableIsTrue keeps the table from naming what is not there.
func TestTableIsTrue(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, f := range sources(t) {
		seen[f.pkg] = true
	}
	for _, l := range layers {
		for _, pkg := range l.in {
			if !strings.HasSuffix(pkg, "/...") && !seen[pkg] {
				t.Errorf("the table names %s, which is not there", pkg)
			}
		}
	}
}

func layerOf(pkg string) *layer {
	for i := range layers {
		for _, pattern := range layers[i].in {
			below, deep := strings.CutSuffix(pattern, "/...")
			if pkg == pattern || deep && (pkg == below || strings.HasPrefix(pkg, below+"/")) {
				return &layers[i]
			}
		}
	}
	return nil
}

func (l *layer) allows(pkg, target string) bool {
	if slices.Contains(within[pkg], target) {
		return true
	}
	for _, name := range l.may {
		if name == all || name == target || name == parent && isAbove(target, pkg) {
			return true
		}
	}
	return false
}

// isAbove reports whether target is a folder above pkg that is not the root.
func isAbove(target, pkg string) bool {
	for dir := path.Dir(pkg); dir != root; dir = path.Dir(dir) {
		if dir == target {
			return true
		}
	}
	return false
}

// importOf returns the package an import line names, relative to the module,
// and whether it is one of ours.
func importOf(t *testing.T, spec *ast.ImportSpec) (string, bool) {
	t.Helper()
	name, err := strconv.Unquote(spec.Path.Value)
	if err != nil {
		t.Fatal(err)
	}
	if name == module {
		return root, true
	}
	return strings.CutPrefix(name, module+"/")
}

type source struct {
	name   string // relative to the module
	pkg    string // its folder, relative to the module
	text   string
	syntax *ast.File // as far as the imports
}

// sources reads every Go file of the module.
func sources(t *testing.T) []source {
	t.Helper()
	top := filepath.Join("..", "..")
	var found []source
	err := filepath.WalkDir(top, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return skipDir(top, name)
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		syntax, err := parser.ParseFile(token.NewFileSet(), name, text, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(top, name)
		if err != nil {
			return err
		}
		found = append(found, source{filepath.ToSlash(rel), path.Dir(filepath.ToSlash(rel)), string(text), syntax})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		t.Fatal("no Go files found")
	}
	return found
}

// skipDir leaves out what go build ./... leaves out: other modules, build
// products, and folders with hidden or underscored names.
func skipDir(top, name string) error {
	base := filepath.Base(name)
	if name == top {
		return nil
	}
	if strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || base == "testdata" || base == "build" || base == "bin" {
		return filepath.SkipDir
	}
	if _, err := os.Stat(filepath.Join(name, "go.mod")); err == nil {
		return filepath.SkipDir
	}
	return nil
}
