// Package standin takes Firecracker's place in tests: a program that holds
// whoever uses it to Firecracker's API, more strictly than that does itself.
//
// A test binary becomes the program by calling Main first, and is installed
// under Firecracker's name by Install. It has the command line, the API with
// every field, type and allowed state that Dayfly may use (the table in
// table.go), the vsock socket, the console, the log and the files of a saved
// machine. Its guest is the conversation of vmmtest/script, run by goroutines
// over real drives and a RAM that is mapped as Firecracker maps it; so the
// conformance suite runs on it. There is no virtual machine: what a processor or
// a kernel would do proves nothing here.
//
// Whatever is wrong about a request is answered as Firecracker would, and
// written into a file beside the program, so that a test sees it even where the
// driver does not care: see Violations.
package standin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Version is what the stand-in says of itself unless told otherwise.
const Version = "1.16.2"

// Names of files beside the program.
const (
	programName    = "firecracker"
	faultsName     = "faults.json"
	violationsName = "violations"
)

// Faults are what a stand-in does wrong. The zero value: nothing.
type Faults struct {
	Version     string // what it says of itself
	Deaf        bool   // it opens its socket and answers nothing
	NoSocket    bool   // it does not open it
	DieBefore   string // the request, such as "PUT /vsock", at which it dies
	HangAt      string // the request that it never answers
	Refuse      string // the request that it refuses
	RefuseWords string // with these words
	MemoryFirst bool   // it saves the memory ahead of the state
	Garbage     bool   // it answers what is no JSON
	Endless     bool   // it answers without end

	// Links are symbolic links that it puts into the place of what it has there,
	// by their names, as soon as the guest runs.
	Links map[string]string
}

// Main becomes the stand-in if the command line is Firecracker's. A TestMain
// calls it ahead of everything else.
func Main() { MainWith(nil) }

// MainWith is Main with another guest than the suite's, unless it is nil.
func MainWith(a Agent) {
	if len(os.Args) < 2 || filepath.Base(os.Args[0]) != programName && !strings.HasPrefix(os.Args[0], programName+":") {
		return
	}
	program, err := os.Executable()
	if err != nil {
		os.Exit(exitError)
	}
	os.Exit(run(filepath.Dir(program), os.Args[1:], a))
}

// Install makes a stand-in of this test binary and returns its path.
func Install(t testing.TB, f Faults) string {
	t.Helper()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, programName)
	if err := os.Link(self, path); err != nil {
		if err := copyProgram(self, path); err != nil {
			t.Fatal(err)
		}
	}
	text, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, faultsName), text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Files are what an installed stand-in reads and writes beside itself. They must
// be wherever it is put.
func Files(t testing.TB, program string) []string {
	t.Helper()
	dir := filepath.Dir(program)
	violations := filepath.Join(dir, violationsName)
	f, err := os.OpenFile(violations, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return []string{filepath.Join(dir, faultsName), violations}
}

func copyProgram(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o700) //nolint:gosec // a program
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// Violations lists what was wrong about the requests that an installed stand-in
// got so far.
func Violations(t testing.TB, program string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(filepath.Dir(program), violationsName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return slices.Collect(strings.Lines(string(text)))
}

// Exit codes (FcExitCode in src/vmm/src/lib.rs of Firecracker).
const (
	exitError     = 1
	exitBadConfig = 152
	exitArguments = 153
)

func readFaults(dir string) (f Faults, err error) {
	text, err := os.ReadFile(filepath.Join(dir, faultsName))
	if err == nil {
		err = json.Unmarshal(text, &f)
	}
	if f.Version == "" {
		f.Version = Version
	}
	return f, err
}

// run is the program.
func run(dir string, args []string, a Agent) int {
	stdout, stderr := io.Writer(os.Stdout), io.Writer(os.Stderr)
	faults, err := readFaults(dir)
	if err != nil {
		fmt.Fprintln(stderr, "stand-in:", err)
		return exitError
	}
	if len(args) == 1 && args[0] == "--version" {
		fmt.Fprintf(stdout, "Firecracker v%s\n\n", faults.Version)
		return 0
	}
	o, err := parse(args)
	if err != nil {
		record(dir, "command line: "+err.Error())
		fmt.Fprintf(stderr, "Arguments parsing error: %v\n\nFor more information try --help.\n", err)
		return exitArguments
	}
	log, err := openPipe(o.log)
	if err != nil {
		fmt.Fprintln(stderr, "Could not initialize logger:", err)
		return exitError
	}
	s := &server{agent: a, dir: dir, faults: faults, options: o, log: log, stdout: stdout, ended: make(chan int, 1)}
	s.say("Running Firecracker v%s", faults.Version)
	code := s.serve()
	if code == 0 {
		s.say("Firecracker exiting successfully. exit_code=0")
	} else {
		s.say("Firecracker exiting with error. exit_code=%d", code)
	}
	return code
}

// options are what the command line may say. What else Firecracker has, such as
// --no-seccomp, is not for Dayfly to use.
type options struct {
	socket, id, log, metrics string
}

func parse(args []string) (o options, err error) {
	values := map[string]*string{"--api-sock": &o.socket, "--id": &o.id, "--log-path": &o.log, "--metrics-path": &o.metrics, "--level": new(string)}
	for ; len(args) > 0; args = args[2:] {
		v := values[args[0]]
		if v == nil {
			return o, fmt.Errorf("found argument %q which wasn't expected", args[0])
		}
		if *v != "" {
			return o, fmt.Errorf("the argument %q was provided more than once", args[0])
		}
		if len(args) < 2 {
			return o, fmt.Errorf("the argument %q requires a value", args[0])
		}
		*v = args[1]
	}
	level := *values["--level"]
	switch {
	case o.socket == "" || len(o.socket) > maxSocketPath:
		return o, fmt.Errorf("path of the socket: %q", o.socket)
	case o.id == "" || len(o.id) > 64 || strings.ContainsFunc(o.id, notIDRune):
		return o, fmt.Errorf("invalid instance id %q", o.id)
	case level != "" && !slices.Contains([]string{"Error", "Warning", "Info", "Debug", "Trace", "Off"}, level):
		return o, fmt.Errorf("invalid level %q", level)
	}
	return o, nil
}

// maxSocketPath is how long the path of a unix socket may be.
const maxSocketPath = 107

func notIDRune(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-')
}

// openPipe opens a log or metrics file as Firecracker does.
func openPipe(path string) (*os.File, error) {
	if path == "" {
		return nil, nil
	}
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|nonblock, 0o600)
}

// record notes what somebody did wrong.
func record(dir, what string) {
	f, err := os.OpenFile(filepath.Join(dir, violationsName), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	_, _ = f.WriteString(what + "\n")
}
