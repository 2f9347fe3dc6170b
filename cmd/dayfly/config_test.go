package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dayfly/dayfly"
)

func TestConfigIsStrict(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"listen: [unix:///x]\nlisten_on: y\n": "line 2: field listen_on not found",
		"standby: many\n":                     "line 1: cannot unmarshal",
		"tls: {cert: a}\n":                    "cert and key belong together",
		"standby: 1000\n":                     "hold 0 to 64",
		"vmm: xen\n":                          `vmm is "xen": use auto, qemu, firecracker`,
		"jail: maybe\n":                       "use on, off",
		"log: {level: loud}\n":                "use debug, info, warn, error",
		"merge_above: 1\n":                    "use 2 or more",
		"starts: {queue: -1}\n":               "a bound is negative",
		"{}\n---\n{}\n":                       "a second document",
		"[":                                   "did not find expected node content",
	} {
		path := filepath.Join(t.TempDir(), "config.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := readConfig(path)
		if err == nil {
			_, err = c.normal("/state")
		}
		if dayfly.KindOf(err) != dayfly.Invalid || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, which lacks %q", text, err, want)
		}
	}
}

func TestEmptyConfigStarts(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "# nothing\n", "{}\n"} {
		c, err := parseConfig([]byte(text))
		if err == nil {
			c, err = c.normal("/state")
		}
		if err != nil || len(c.Listen) != 1 || c.Listen[0] != "unix:///state/dayfly.sock" || c.Database != "sqlite:///state/dayfly.db" || *c.Standby != 1 {
			t.Errorf("%q: %+v, %v", text, c, err)
		}
	}
}

func FuzzConfig(f *testing.F) {
	f.Add("listen: [unix:///x]\nstandby: 2\nlog: {level: debug}\n")
	f.Fuzz(func(_ *testing.T, text string) {
		if c, err := parseConfig([]byte(text)); err == nil {
			_, _ = c.normal("/state")
		}
	})
}
