// Package needs lets a test ask for what not every machine has: root, loop
// devices, QEMU, a prepared guest kernel, KVM.
//
// A test that lacks one is skipped with a line of the form
//
//	needs: <capability>: <what was found>: <how to get it>
//
// from which test/report makes the list at the end of make test. With
// DAYFLY_NEEDS=strict, as .ci/run sets it, a lack fails the test unless the
// capability is named in the file ci-allows: no test is skipped there in
// silence. Every capability is probed once in a test binary, by using it.
package needs

import (
	_ "embed"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Prefix begins every skip text that test/report understands.
const Prefix = "needs: "

//go:embed ci-allows
var allows string

// Allowed lists the capabilities whose lack does not fail a strict run.
func Allowed() []string {
	var names []string
	for line := range strings.Lines(allows) {
		name, _, _ := strings.Cut(line, "#")
		if name = strings.TrimSpace(name); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// Names lists every capability there is.
func Names() []string {
	var names []string
	for _, c := range capabilities {
		names = append(names, c.name)
	}
	return names
}

// capability is one thing a test may need. Its probe returns what the test
// wants to know of it, such as a path, or what was found instead.
type capability struct {
	name   string
	remedy string
	probe  func() (string, error)

	once  sync.Once
	found string
	err   error
}

// require returns what the probe found, or ends the test.
func (c *capability) require(t testing.TB) string {
	t.Helper()
	c.once.Do(func() { c.found, c.err = c.probe() })
	if c.err == nil {
		return c.found
	}
	text := Prefix + c.name + ": " + c.err.Error() + ": " + c.remedy
	if strict() && !slices.Contains(Allowed(), c.name) {
		t.Fatal(text)
	}
	t.Skip(text)
	return ""
}
