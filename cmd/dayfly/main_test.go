package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/dayfly/dayfly/api"
	"github.com/dayfly/dayfly/test/fakehost"
	"github.com/dayfly/dayfly/test/needs"
)

func TestMain(m *testing.M) {
	needs.HangUps()
	testscript.Main(m, map[string]func(){"dayfly": fakeMain})
}

// fakeMain is main over a host without machines.
func fakeMain() {
	a := newApp()
	h := fakehost.New()
	a.newBackend = func(string, *slog.Logger) (backend, error) { return fakeBackend{h}, nil }
	if os.Getenv("DAYFLY_TEST_SAY") != "" { // tell a test when to interrupt
		go func() {
			<-h.Starting()
			fmt.Fprintln(os.Stderr, "starting")
		}()
	}
	os.Exit(a.run(os.Args[1:]))
}

type fakeBackend struct{ *fakehost.Host }

// options are those of a host, or with DAYFLY_TEST_WHOLE of a whole server, which
// asks for keys.
func (f fakeBackend) options() api.Options {
	if os.Getenv("DAYFLY_TEST_WHOLE") != "" {
		return f.ServerOptions()
	}
	return f.Options()
}

// TestScripts runs the command lines in testdata/script. Commands in workspaces
// run on this machine, as root.
func TestScripts(t *testing.T) {
	needs.Root(t)
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Setup: func(e *testscript.Env) error {
			e.Setenv("DAYFLY_STATE", filepath.Join(e.WorkDir, "state"))
			e.Setenv("DAYFLY_HOST", "")
			e.Setenv("HOME", filepath.Join(e.WorkDir, "home"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "jsonfield": jsonField},
	})
}
