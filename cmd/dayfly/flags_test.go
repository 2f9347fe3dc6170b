package main

import (
	"maps"
	"strings"
	"testing"

	"github.com/dayfly/dayfly"
)

func TestSizes(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]int{
		"512M": 512, "512m": 512, "512MiB": 512, "512Mi": 512, "512MB": 512, "2G": 2048, "1.5G": 1536,
		"1T": 1 << 20, "1048576K": 1024, "1K": 1, "1025K": 2, // rounded up
		"512": 0, "": 0, "M": 0, "-1G": 0, "1e3M": 0, "1X": 0, "0M": 0, "NaNM": 0, "InfG": 0, "0x10M": 0, "1 G": 0, "99999999T": 0,
	} {
		var m mebibytes
		if err := m.Set(s); (err == nil) != (want > 0) || err == nil && int(m) != want {
			t.Errorf("%q is %d MiB, %v, want %d", s, m, err, want)
		}
	}
}

func FuzzSizes(f *testing.F) {
	for _, s := range []string{"512M", "1.5G", "1e9T", "..K", "-5M"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var m mebibytes
		if m.Set(s) != nil {
			return
		}
		var again mebibytes
		if err := again.Set(m.String()); m < 1 || err != nil || again != m {
			t.Errorf("%q is %d, printed as %s, which is %d, %v", s, m, m.String(), again, err)
		}
	})
}

func TestEnvFiles(t *testing.T) {
	t.Parallel()
	caller := func(name string) (string, bool) { return "of the caller", name == "MINE" }
	env := map[string]string{}
	const text = "\ufeff# comment\n\nA=1\n  B=two words \nC=\"quoted\"\nD==\nMINE\nABSENT\nA=later\nCRLF=x\r\n"
	if err := readEnv(strings.NewReader(text), env, caller); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"A": "later", "B": "two words ", "C": `"quoted"`, "D": "=", "MINE": "of the caller", "CRLF": "x"}
	if !maps.Equal(env, want) {
		t.Errorf("read %q, want %q", env, want)
	}
	for text, says := range map[string]string{
		"A=1\n=2":                         `2: "=2" is not NAME=VALUE`,
		"export A=1":                      `1: "export A=1"`,
		strings.Repeat("x", 2*maxEnvLine): "1: ",
	} {
		if err := readEnv(strings.NewReader(text), env, caller); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%.20q: %v, want %s", text, err, says)
		}
	}
}

func FuzzEnvFile(f *testing.F) {
	f.Add("A=1\n#c\nB\n")
	f.Add("\ufeff=\x00\n")
	f.Fuzz(func(t *testing.T, text string) {
		env := map[string]string{}
		_ = readEnv(strings.NewReader(text), env, func(string) (string, bool) { return "v", true })
		for k, v := range env {
			if k == "" || strings.ContainsAny(k, "=\x00 \t\n") || strings.ContainsAny(v, "\x00\n") {
				t.Errorf("%q=%q", k, v)
			}
		}
	})
}

func TestWaterfall(t *testing.T) {
	t.Parallel()
	w := waterfall{}
	w.add("client", 0, 10, 0)
	w.add("boot", 10, 70, 0)
	w.add("crypt\x1b[2J", 80, 0.1, 1)
	w.add("late", 100, 0, 0)
	const want = `  stage           at ms   took ms
  client            0.0      10.0  ━━━━
  boot             10.0      70.0      ━━━━━━━━━━━━━━━━━━━━━━━━━━━━
    crypt?[2J      80.0       0.1                                  ━
  late            100.0       0.0                                         ━
`
	if got := w.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func FuzzWaterfall(f *testing.F) {
	f.Add("boot", "init", 1.0, 2.0)
	f.Add("\x1b", "", -1e300, 1e300)
	f.Fuzz(func(t *testing.T, name, within string, at, took float64) {
		w := waterfall{}
		for _, st := range inOrder(dayfly.Timeline{{Name: within}, {Name: name, Within: within, At: at, Took: took}, {Name: "x", Within: name}}) {
			w.add(st.Name, st.At, st.Took, 1)
		}
		if s := w.String(); strings.ContainsFunc(s, func(r rune) bool { return r != '\n' && r != '━' && (r < ' ' || r > '~') }) {
			t.Errorf("not for a terminal: %q", s)
		}
	})
}

func TestPartsOfAStageFollowIt(t *testing.T) {
	t.Parallel()
	in := dayfly.Timeline{
		{Name: "b", At: 5, Within: "init"}, {Name: "image"}, {Name: "init", At: 4}, {Name: "a", At: 4, Within: "init"}, {Name: "lost", Within: "gone"},
	}
	var got []string
	for _, st := range inOrder(in) {
		got = append(got, st.Name)
	}
	if s := strings.Join(got, " "); s != "image init a b lost" {
		t.Error(s)
	}
}

func TestPercentilesWereMeasured(t *testing.T) {
	t.Parallel()
	var v []float64
	for i := range 20 {
		v = append(v, float64(20-i))
	}
	s := summarise("x", v)
	if s.P50 != 10 || s.P95 != 19 || s.P99 != 20 || s.Min != 1 || s.Max != 20 {
		t.Errorf("%+v", s)
	}
}

func TestProgramHasABuildID(t *testing.T) {
	t.Parallel()
	if id := buildID("/proc/self/exe"); len(id) < 20 {
		t.Errorf("build id %q: every start would hash the guest agent", id)
	}
	if id := buildID("flags_test.go"); id != "" {
		t.Errorf("build id of a text: %q", id)
	}
}
