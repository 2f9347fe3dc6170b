package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/dayfly/dayfly/test/needs"
)

// event is a line of go test -json; see go doc test2json.
type event struct {
	Action     string
	Package    string
	ImportPath string // of build output
	Test       string
	Elapsed    float64 // seconds
	Output     string
}

type testID struct{ pkg, name string }

// failure is a test that failed, or a package, and the first it said of it.
type failure struct {
	name  string
	words []string
}

// report gathers the events of a run and writes them down for people.
type report struct {
	w       io.Writer
	output  map[testID][]string // of tests under way; name "" is the package's own
	skips   map[string][]string // tests by the capability they lack
	why     map[string]string   // what is lacking and how to get it, by capability
	silent  []string            // tests skipped for no capability
	failing []failure
	broken  map[string]bool // packages with a failed test
	passed  int
	failed  int
	skipped int
}

func newReport(w io.Writer) *report {
	return &report{
		w: w, output: map[testID][]string{}, skips: map[string][]string{},
		why: map[string]string{}, broken: map[string]bool{},
	}
}

// read takes every event from in. Lines that are no events, such as those of a
// command that is not go test, are passed through.
func (r *report) read(in io.Reader) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			r.line(line)
		}
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func (r *report) line(line string) {
	var e event
	if json.Unmarshal([]byte(line), &e) != nil || e.Action == "" {
		fmt.Fprint(r.w, line)
		return
	}
	id := testID{e.Package, e.Test}
	switch e.Action {
	case "output":
		r.output[id] = append(r.output[id], e.Output)
		return
	case "build-output":
		fmt.Fprint(r.w, e.Output)
		return
	case "pass", "fail", "skip":
	default:
		return
	}
	if e.Test == "" {
		r.endPackage(e)
	} else {
		r.endTest(e, id)
	}
	delete(r.output, id)
}

func (r *report) endTest(e event, id testID) {
	name := short(e.Package) + " " + e.Test
	switch e.Action {
	case "pass":
		r.passed++
	case "fail":
		r.failed++
		r.broken[e.Package] = true
		r.failing = append(r.failing, failure{name, r.words(id)})
		fmt.Fprintf(r.w, "FAIL  %s (%.1f s)\n", name, e.Elapsed)
		r.print(id)
	case "skip":
		r.skipped++
		r.skip(name, strings.Join(r.output[id], ""))
	}
}

// skip files a skipped test under what it lacks. The text is the test's whole
// output, in which one line holds needs.Prefix.
func (r *report) skip(name, text string) {
	for line := range strings.Lines(text) {
		_, rest, ok := strings.Cut(line, needs.Prefix)
		if !ok {
			continue
		}
		capability, why, _ := strings.Cut(strings.TrimSpace(rest), ": ")
		r.skips[capability] = append(r.skips[capability], name)
		r.why[capability] = why
		return
	}
	r.silent = append(r.silent, name+": "+reason(text))
}

// reason is the last line of a test's output that says anything.
func reason(text string) string {
	last := "no reason given"
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "---") && !strings.HasPrefix(line, "===") {
			last = line
		}
	}
	return last
}

func (r *report) endPackage(e event) {
	id := testID{pkg: e.Package}
	switch e.Action {
	case "pass":
		fmt.Fprintf(r.w, "ok    %s (%.1f s)\n", short(e.Package), e.Elapsed)
	case "fail":
		if !r.broken[e.Package] { // it did not build, or its TestMain or a goroutine ended it
			r.failed++
			r.failing = append(r.failing, failure{short(e.Package), r.words(id)})
		}
		fmt.Fprintf(r.w, "FAIL  %s (%.1f s)\n", short(e.Package), e.Elapsed)
		r.printUnfinished(e.Package)
		r.print(id)
	}
}

// printUnfinished prints the output of tests that a panic or the timeout ended:
// they have no event of their own.
func (r *report) printUnfinished(pkg string) {
	for id := range r.output {
		if id.pkg == pkg && id.name != "" {
			fmt.Fprintf(r.w, "FAIL  %s %s (unfinished)\n", short(pkg), id.name)
			r.print(id)
		}
	}
}

func (r *report) print(id testID) {
	for _, line := range r.output[id] {
		if !strings.HasPrefix(line, "=== ") {
			fmt.Fprint(r.w, "    ", line)
		}
	}
}

// words is the beginning of what a test said, for a summary far below the rest.
func (r *report) words(id testID) []string {
	const most, longest = 3, 240
	var list []string
	for _, line := range r.output[id] {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "=== ") || strings.HasPrefix(line, "--- ") {
			continue
		}
		if len(list) == most {
			return append(list, "…")
		}
		if len(line) > longest {
			line = strings.ToValidUTF8(line[:longest], "") + "…"
		}
		list = append(list, line)
	}
	return list
}

// summary prints the end of the report and says whether all is well. In a
// strict run a test may be skipped only for what test/needs allows.
func (r *report) summary(strict bool) bool {
	fmt.Fprintln(r.w)
	r.listSkips()
	for _, f := range r.failing {
		fmt.Fprintf(r.w, "failed: %s\n", f.name)
		for _, line := range f.words {
			fmt.Fprintf(r.w, "    %s\n", line)
		}
	}
	well := r.failed == 0 && r.passed > 0
	if r.failed == 0 && r.passed == 0 {
		fmt.Fprintln(r.w, "failed: no test ran")
	}
	if strict && r.skippedInSilence() {
		well = false
		fmt.Fprintln(r.w, "failed: a test was skipped for something that test/needs/ci-allows does not name")
	}
	fmt.Fprintf(r.w, "%d passed, %d failed, %d skipped\n", r.passed, r.failed, r.skipped)
	return well
}

func (r *report) skippedInSilence() bool {
	allowed := needs.Allowed()
	for name := range r.skips {
		if !slices.Contains(allowed, name) {
			return true
		}
	}
	return len(r.silent) > 0
}

func (r *report) listSkips() {
	for _, name := range slices.Sorted(maps.Keys(r.skips)) {
		fmt.Fprintf(r.w, "skipped for lack of %s: %s\n", name, r.why[name])
		for _, test := range r.skips[name] {
			fmt.Fprintf(r.w, "    %s\n", test)
		}
	}
	if len(r.silent) > 0 {
		fmt.Fprintln(r.w, "skipped for no lack of this machine:")
		for _, test := range r.silent {
			fmt.Fprintf(r.w, "    %s\n", test)
		}
	}
}

func short(pkg string) string {
	const module = "github.com/dayfly/dayfly"
	if pkg == module {
		return "."
	}
	return strings.TrimPrefix(pkg, module+"/")
}
