package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/dayfly/dayfly"
)

func TestRestartPolicies(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]dayfly.Restart{
		"no": {Policy: dayfly.RestartNo}, "always": {Policy: dayfly.RestartAlways},
		"on-failure:5": {Policy: dayfly.RestartOnFailure, Max: 5}, "unless-stopped:1": {Policy: dayfly.RestartUnlessStopped, Max: 1},
	} {
		var f restartFlag
		if err := f.Set(s); err != nil || f.Restart != want || f.String() != s {
			t.Errorf("%s is %+v, printed %s, %v", s, f.Restart, f.String(), err)
		}
	}
	for _, s := range []string{"", "Always", "always:", "always:0", "always:-1", "always:x", "no:3", "on-failure:1:2", "always:99999999999999999999"} {
		var f restartFlag
		if err := f.Set(s); err == nil {
			t.Errorf("%q is %+v", s, f.Restart)
		}
	}
}

func FuzzRestartPolicies(f *testing.F) {
	f.Add("on-failure:5")
	f.Add("no:")
	f.Fuzz(func(t *testing.T, s string) {
		var p, again restartFlag
		if p.Set(s) != nil {
			return
		}
		if err := again.Set(p.String()); err != nil || again != p || p.Max < 0 {
			t.Errorf("%q is %+v, printed as %q, %v", s, p, p.String(), err)
		}
	})
}

func TestSpansOfTime(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]seconds{"0": 0, "never": 0, "30s": 30, "1.5s": 2, "10m": 600, "1ms": 1} {
		var d seconds
		if err := d.Set(s); err != nil || d != want {
			t.Errorf("%s is %d s, %v, want %d", s, d, err, want)
		}
	}
	for s, want := range map[string]time.Duration{"30d": 30 * day, "12h": 12 * time.Hour, "1d": day} {
		var d span
		if err := d.Set(s); err != nil || time.Duration(d) != want {
			t.Errorf("%s is %s, %v, want %s", s, time.Duration(d), err, want)
		}
	}
	for _, s := range []string{"", "-1s", "5", "soon", "1y"} {
		var d seconds
		var e span
		if d.Set(s) == nil || e.Set(s) == nil {
			t.Errorf("%q is %d s and %s", s, d, time.Duration(e))
		}
	}
	for _, s := range []string{"0", "0s", "0d", "-1d", "99999999d", "9223372036854775807d"} {
		var e span
		if e.Set(s) == nil {
			t.Errorf("%q is %s", s, time.Duration(e))
		}
	}
}

func TestSidesOfACopy(t *testing.T) {
	t.Parallel()
	for arg, want := range map[string]side{
		"a": {path: "a"}, "./a:b": {path: "./a:b"}, "/a:b": {path: "/a:b"}, "-": {path: "-"}, "a/b:c": {path: "a/b:c"},
		"ws:a": {"ws", "a"}, "ws:": {"ws", "."}, "ws:/a:b": {"ws", "/a:b"}, "ws:-": {"ws", "-"},
	} {
		if got, err := parseSide(arg); got != want || err != nil {
			t.Errorf("%q is %+v, %v, want %+v", arg, got, err, want)
		}
	}
	for _, arg := range []string{"", ":a", "..:a", "w\x00:a", "ws:a\x00b"} {
		if got, err := parseSide(arg); dayfly.KindOf(err) != dayfly.Invalid {
			t.Errorf("%q is %+v, %v", arg, got, err)
		}
	}
}

func FuzzSidesOfACopy(f *testing.F) {
	f.Add("ws:a", "b")
	f.Add("./a:b", ":")
	f.Fuzz(func(t *testing.T, from, to string) {
		src, dst, err := sides(from, to)
		if err == nil && (src.ref == "") == (dst.ref == "") {
			t.Errorf("%q to %q: %+v, %+v", from, to, src, dst)
		}
		if err == nil && (src.path == "" || dst.path == "" || strings.Contains(string(src.ref+dst.ref), "/")) {
			t.Errorf("%q to %q: %+v, %+v", from, to, src, dst)
		}
	})
}

func TestFormatSeesTheNamesOfTheAPI(t *testing.T) {
	t.Parallel()
	ws := dayfly.Workspace{ID: "w1", State: dayfly.Running, Spec: dayfly.Spec{CPUs: 2, MemoryMiB: 1 << 20, Command: []string{"a", "b"}}}
	for text, want := range map[string]string{
		"{{.id}} {{.state}}":                      "w1 running",
		"{{.spec.memory_mib}}":                    "1048576",
		"{{if gt .spec.cpus 1}}many{{end}}":       "many",
		"[{{.name}}]":                             "[]",
		`{{join "," .spec.command}}`:              "a,b",
		"{{json .spec.command}}":                  `["a","b"]`,
		"{{range .spec.command}}<{{.}}>{{end}}":   "<a><b>",
		"{{with .exit}}{{.code}}{{else}}-{{end}}": "-",
		"{{.id | printf \"%-4s|\"}}":              "w1  |",
	} {
		var f format
		var out bytes.Buffer
		if err := f.Set(text); err != nil {
			t.Error(err)
			continue
		}
		if err := f.line(&out, ws); err != nil || out.String() != want+"\n" {
			t.Errorf("%s prints %q, %v, want %q", text, &out, err, want)
		}
	}
}

func TestScreenKeepsWithinTheTerminal(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	s := &screen{w: &out, size: func() (int, int) { return 10, 4 }}
	if err := s.draw("a\nb\n"); err != nil || out.String() != "\r\x1b[Ja\nb\n" {
		t.Errorf("%q, %v", &out, err)
	}
	out.Reset()
	if err := s.draw("äöüäöüäöüäöü\n2\n3\n4\n5\n"); err != nil || out.String() != "\x1b[2A\r\x1b[Jäöüäöüäöü\n2\n3\n" {
		t.Errorf("%q, %v", &out, err)
	}
	out.Reset()
	_ = s.draw("\n")
	if out.String() != "\x1b[3A\r\x1b[J\n" {
		t.Errorf("%q", &out)
	}
}

func TestCommandsOfAServerShowAnExample(t *testing.T) {
	t.Parallel()
	root := newApp().root()
	for _, name := range strings.Fields("create get update ls rm restart keepalive shell cp logs events top token login logout quota audit") {
		if c, _, err := root.Find([]string{name}); err != nil || c.Example == "" || c.Name() != name {
			t.Errorf("%s: no example, %v", name, err)
		}
	}
	for _, group := range []string{"key", "ns", "webhook"} {
		c, _, err := root.Find([]string{group})
		if err != nil || len(c.Commands()) == 0 {
			t.Fatalf("%s: %v", group, err)
		}
		for _, sub := range c.Commands() {
			if sub.Example == "" {
				t.Errorf("%s: no example", sub.CommandPath())
			}
		}
	}
}
