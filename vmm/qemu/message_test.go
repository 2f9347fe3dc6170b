package qemu

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

var lines = []string{
	`{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": "Debian"}, "capabilities": ["oob"]}}`,
	`{"return": {"status": "running", "running": true}, "id": 2}`,
	`{"id": 3, "error": {"class": "GenericError", "desc": "Resetting the Virtual Machine is required"}}`,
	`{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}`,
}

func TestReaderTellsMessagesApart(t *testing.T) {
	t.Parallel()
	r := newReader(strings.NewReader("\r\n" + strings.Join(lines, "\r\n")))
	for i, ok := range []func(message) bool{
		func(m message) bool { return m.Greeting.Version.QEMU.Major == 10 },
		func(m message) bool { return *m.ID == 2 && string(m.Return) != "" },
		func(m message) bool { return *m.ID == 3 && strings.Contains(m.Error.Error(), "is required") },
		func(m message) bool { return m.Event == "SHUTDOWN" && m.Data.Reason == "guest-reset" },
	} {
		m, err := r.next()
		if err != nil || !ok(m) {
			t.Errorf("line %d: %+v, %v", i, m, err)
		}
	}
	if _, err := r.next(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last: %v", err)
	}
}

func TestReaderRefusesNonsense(t *testing.T) {
	t.Parallel()
	for name, in := range map[string]string{
		"no json":     "hello\n",
		"no message":  "{}\n",
		"two in one":  `{"return": {}, "event": "STOP", "id": 1}` + "\n",
		"no object":   "[]\n",
		"odd id":      `{"return": {}, "id": -1}` + "\n",
		"endless":     strings.Repeat(" ", maxMessage+1),
		"deep":        strings.Repeat("[", maxMessage/2) + "\n",
		"data a list": `{"event": "STOP", "data": []}` + "\n",
	} {
		if m, err := newReader(strings.NewReader(in)).next(); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
}

// FuzzReader feeds bytes as a QEMU that a guest has taken over might send.
func FuzzReader(f *testing.F) {
	for _, l := range lines {
		f.Add([]byte(l + "\n"))
	}
	f.Add([]byte(strings.Join(lines, "\n")))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := newReader(bytes.NewReader(in))
		for {
			m, err := r.next()
			if err != nil {
				return
			}
			if m.Greeting == nil && m.Return == nil && m.Error == nil && m.Event == "" {
				t.Fatalf("a message of no kind: %+v", m)
			}
		}
	})
}
