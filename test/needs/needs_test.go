package needs

import (
	"errors"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// ender is a testing.TB that records how require ends a test.
type ender struct {
	testing.TB
	failed, skipped string
}

func (e *ender) Helper()           {}
func (e *ender) Fatal(args ...any) { e.failed = args[0].(string); runtime.Goexit() }
func (e *ender) Skip(args ...any)  { e.skipped = args[0].(string); runtime.Goexit() }

func lack(name string) *ender {
	e := &ender{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c := &capability{name: name, remedy: "get one", probe: func() (string, error) { return "", errors.New("none here") }}
		c.require(e)
	}()
	<-done
	return e
}

func TestLackIsSkippedWithItsRemedy(t *testing.T) {
	t.Setenv(envMode, "")
	if got, want := lack("thing").skipped, "needs: thing: none here: get one"; got != want {
		t.Fatalf("skipped with %q, want %q", got, want)
	}
}

func TestStrictRunFailsUnlessAllowed(t *testing.T) {
	t.Setenv(envMode, "strict")
	if got := lack("thing"); got.failed == "" || got.skipped != "" {
		t.Errorf("a lack that is not allowed was skipped: %+v", got)
	}
	if got := lack("kvm"); got.failed != "" || got.skipped == "" {
		t.Errorf("a lack that is allowed failed: %+v", got)
	}
}

func TestAllowedNamesExist(t *testing.T) {
	t.Parallel()
	for _, name := range Allowed() {
		if !slices.Contains(Names(), name) {
			t.Errorf("ci-allows names %q, which is no capability", name)
		}
	}
	for _, name := range Names() {
		if strings.ContainsAny(name, ": ") {
			t.Errorf("capability %q: test/report needs a name without colons and spaces", name)
		}
	}
}
