package main

import (
	"strings"
	"testing"
)

const sample = `not json
{"Action":"start","Package":"github.com/dayfly/dayfly/a"}
{"Action":"run","Package":"github.com/dayfly/dayfly/a","Test":"TestGood"}
{"Action":"output","Package":"github.com/dayfly/dayfly/a","Test":"TestGood","Output":"quiet\n"}
{"Action":"pass","Package":"github.com/dayfly/dayfly/a","Test":"TestGood","Elapsed":0.1}
{"Action":"output","Package":"github.com/dayfly/dayfly/a","Test":"TestGuest","Output":"    a_test.go:3: needs: kvm: no guest ran: use another machine\n"}
{"Action":"output","Package":"github.com/dayfly/dayfly/a","Test":"TestGuest","Output":"--- SKIP: TestGuest (0.00s)\n"}
{"Action":"skip","Package":"github.com/dayfly/dayfly/a","Test":"TestGuest","Elapsed":0}
{"Action":"output","Package":"github.com/dayfly/dayfly/a","Test":"TestLazy","Output":"    a_test.go:9: later\n"}
{"Action":"output","Package":"github.com/dayfly/dayfly/a","Test":"TestLazy","Output":"--- SKIP: TestLazy (0.00s)\n"}
{"Action":"skip","Package":"github.com/dayfly/dayfly/a","Test":"TestLazy","Elapsed":0}
{"Action":"pass","Package":"github.com/dayfly/dayfly/a","Elapsed":1}
`

const failures = `{"Action":"output","Package":"github.com/dayfly/dayfly/b","Test":"TestBad","Output":"    b_test.go:3: boom\n"}
{"Action":"fail","Package":"github.com/dayfly/dayfly/b","Test":"TestBad","Elapsed":0.1}
{"Action":"fail","Package":"github.com/dayfly/dayfly/b","Elapsed":1}
{"ImportPath":"github.com/dayfly/dayfly/c","Action":"build-output","Output":"c.go:1: syntax error\n"}
{"Action":"fail","Package":"github.com/dayfly/dayfly/c","Elapsed":0}
{"Action":"output","Package":"github.com/dayfly/dayfly/d","Test":"TestHangs","Output":"panic: test timed out\n"}
{"Action":"fail","Package":"github.com/dayfly/dayfly/d","Elapsed":9}
`

func TestSkipsAreListedByWhatIsLacking(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	r := newReport(&out)
	if err := r.read(strings.NewReader(sample)); err != nil {
		t.Fatal(err)
	}
	if !r.summary(false) {
		t.Error("a run without failures is not well")
	}
	for _, want := range []string{
		"not json\n",
		"ok    a (1.0 s)\n",
		"skipped for lack of kvm: no guest ran: use another machine\n    a TestGuest\n",
		"skipped for no lack of this machine:\n    a TestLazy: a_test.go:9: later\n",
		"1 passed, 0 failed, 2 skipped\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "quiet") {
		t.Errorf("the output of a passing test was printed:\n%s", out.String())
	}
}

func TestNoFailureIsOverlooked(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	r := newReport(&out)
	if err := r.read(strings.NewReader(sample + failures)); err != nil {
		t.Fatal(err)
	}
	if r.summary(false) {
		t.Error("a run with failures is well")
	}
	for _, want := range []string{
		"FAIL  b TestBad (0.1 s)\n        b_test.go:3: boom\n",
		"c.go:1: syntax error\n",
		"FAIL  d TestHangs (unfinished)\n    panic: test timed out\n",
		"failed: b TestBad\n    b_test.go:3: boom\nfailed: c\nfailed: d\n1 passed, 3 failed, 2 skipped\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

func TestSummarySaysBrieflyWhatFailed(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	r := newReport(&out)
	id := testID{"p", "TestLong"}
	r.output[id] = []string{"=== RUN   TestLong\n", "\n", "  one\n", strings.Repeat("é", 200) + "\n", "three\n", "four\n", "--- FAIL: TestLong\n"}
	r.endTest(event{Action: "fail", Package: id.pkg, Test: id.name}, id)
	r.summary(false)
	want := "failed: p TestLong\n    one\n    " + strings.Repeat("é", 120) + "…\n    three\n    …\n0 passed"
	if !strings.Contains(out.String(), want) {
		t.Errorf("no %q in\n%s", want, out.String())
	}
}

func TestRunWithoutTestsIsAFailure(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	if r := newReport(&out); r.summary(false) {
		t.Error("nothing ran, and all is well")
	}
}

func TestCommandThatCannotRunIsAFailure(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"/no/such/command"}, {"false"}, {"sh", "-c", "kill -9 $$"}} {
		if ok, err := run(t.Context(), args, false); ok && err == nil {
			t.Errorf("%v: all is well", args)
		}
	}
}

func TestStrictRunAllowsOnlyWhatIsNamed(t *testing.T) {
	t.Parallel()
	kvm, lazy, _ := strings.Cut(sample, `{"Action":"output","Package":"github.com/dayfly/dayfly/a","Test":"TestLazy"`)
	for in, want := range map[string]bool{
		kvm: true,
		`{"Action":"output","Package":"github.com/dayfly/dayfly/a","Test":"TestLazy"` + lazy: false,
		strings.ReplaceAll(kvm, "needs: kvm", "needs: root"):                                 false,
	} {
		r := newReport(&strings.Builder{})
		r.passed = 1
		if err := r.read(strings.NewReader(in)); err != nil {
			t.Fatal(err)
		}
		if got := r.summary(true); got != want {
			t.Errorf("summary = %v, want %v, of\n%s", got, want, in)
		}
	}
}
