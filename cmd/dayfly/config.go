package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/dayfly/dayfly"
)

// serveConfig is all that a server can be told, by flags or by a file; flags
// win. The zero value, with the defaults of normal, starts.
type serveConfig struct {
	Listen    []string `yaml:"listen"`    // unix:///path, host:port, https://host:port; default: dayfly.sock in the state directory
	TLS       tlsFiles `yaml:"tls"`       // for addresses other machines can reach
	Insecure  bool     `yaml:"insecure"`  // listen there without TLS: keys and all else can then be read on the way
	Database  string   `yaml:"database"`  // sqlite:///path or postgres://…; default: dayfly.db in the state directory
	Standby   *int     `yaml:"standby"`   // machines held ready; default 1
	Ephemeral bool     `yaml:"ephemeral"` // workspaces end with the server
	VMM       string   `yaml:"vmm"`       // auto, qemu or firecracker
	Jail      string   `yaml:"jail"`      // on or off

	Firecracker string `yaml:"firecracker"` // its program; default: from the program path

	IO     ioBounds    `yaml:"io"`
	Starts startBounds `yaml:"starts"`

	MergeAbove int `yaml:"merge_above"` // layers a disk may have before they are merged; default 16

	Webhooks struct {
		Private bool `yaml:"private"` // may go to loopback and private addresses
	} `yaml:"webhooks"`
	Metrics struct {
		Open bool `yaml:"open"` // /metrics needs no key
	} `yaml:"metrics"`
	Log struct {
		Level  string `yaml:"level"`  // debug, info, warn or error; default info
		Format string `yaml:"format"` // text or json; default text
	} `yaml:"log"`
}

// tlsFiles are PEM files.
type tlsFiles struct {
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
}

func (f tlsFiles) given() bool { return f.Cert != "" || f.Key != "" }

// startBounds bound what is started at once. 0: the default.
type startBounds struct {
	AtOnce int `yaml:"at_once"` // default: the number of CPUs
	Queue  int `yaml:"queue"`   // starts that wait for others; default 64
}

// ioBounds bound the traffic of each machine with the disk. 0: none.
type ioBounds struct {
	Read  int64 `yaml:"read"`  // bytes a second
	Write int64 `yaml:"write"` // bytes a second
}

// maxConfig bounds a file of configuration.
const maxConfig = 1 << 20

// readConfig reads a file of configuration. A field that does not exist is an
// error that names it and its line.
func readConfig(path string) (c serveConfig, err error) {
	f, err := os.Open(path)
	if err != nil {
		return c, dayfly.Errorf(dayfly.Invalid, "config: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return c, dayfly.Errorf(dayfly.Invalid, "config: %w", err)
	}
	if len(b) > maxConfig {
		return c, dayfly.Errorf(dayfly.Invalid, "config: %s is larger than %d bytes", path, maxConfig)
	}
	if c, err = parseConfig(b); err != nil {
		return c, dayfly.Errorf(dayfly.Invalid, "config: %s: %w", path, err)
	}
	return c, nil
}

func parseConfig(b []byte) (c serveConfig, err error) {
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	if err := dec.Decode(&c); err != nil && !errors.Is(err, io.EOF) { // which an empty file is
		return c, fmt.Errorf("%s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := dec.Decode(new(any)); !errors.Is(err, io.EOF) {
		return c, errors.New("a second document follows the first: use one")
	}
	return c, nil
}

// normal fills in defaults and refuses what can never work. State is the state
// directory.
func (c serveConfig) normal(state string) (serveConfig, error) {
	if len(c.Listen) == 0 {
		c.Listen = []string{"unix://" + filepath.Join(state, "dayfly.sock")}
	}
	if c.Database == "" {
		c.Database = "sqlite://" + filepath.Join(state, "dayfly.db")
	}
	if c.Standby == nil {
		one := 1
		c.Standby = &one
	}
	c.VMM, c.Jail = cmp.Or(c.VMM, "auto"), cmp.Or(c.Jail, "on")
	c.Log.Level, c.Log.Format = cmp.Or(c.Log.Level, "info"), cmp.Or(c.Log.Format, "text")
	return c, c.check()
}

func (c serveConfig) check() error {
	if *c.Standby < 0 || *c.Standby > maxStandby {
		return dayfly.Errorf(dayfly.Invalid, "standby is %d: hold 0 to %d machines ready", *c.Standby, maxStandby)
	}
	if c.MergeAbove < 0 || c.MergeAbove == 1 {
		return dayfly.Errorf(dayfly.Invalid, "merge_above is %d: use 2 or more layers, or leave it out", c.MergeAbove)
	}
	for _, f := range []struct {
		name, value string
		may         []string
	}{
		{"vmm", c.VMM, []string{"auto", "qemu", "firecracker"}},
		{"jail", c.Jail, []string{"on", "off"}},
		{"log level", c.Log.Level, []string{"debug", "info", "warn", "error"}},
		{"log format", c.Log.Format, []string{"text", "json"}},
	} {
		if !slices.Contains(f.may, f.value) {
			return dayfly.Errorf(dayfly.Invalid, "%s is %q: use %s", f.name, f.value, strings.Join(f.may, ", "))
		}
	}
	if c.Starts.AtOnce < 0 || c.Starts.Queue < 0 {
		return dayfly.Errorf(dayfly.Invalid, "starts: a bound is negative: use 0 for the default, or a positive number")
	}
	if c.IO.Read < 0 || c.IO.Write < 0 {
		return dayfly.Errorf(dayfly.Invalid, "io: a bound is negative: use 0 for none, or bytes a second")
	}
	if c.TLS.given() && (c.TLS.Cert == "" || c.TLS.Key == "") {
		return dayfly.Errorf(dayfly.Invalid, "tls: cert and key belong together: give both files")
	}
	return nil
}
