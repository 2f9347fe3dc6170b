package vmmtest

import (
	"bufio"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dayfly/dayfly/vmm"
	"github.com/dayfly/dayfly/vmm/vmmtest/script"
)

// talk is a conversation with the guest.
type talk struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

// dial opens the channel without waiting for the guest.
func dial(t *testing.T, m vmm.Machine) *talk {
	t.Helper()
	conn, err := m.Channel(t.Context())
	if err != nil {
		t.Fatalf("Channel: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(deadline)); err != nil {
		t.Fatal(err)
	}
	return &talk{t, conn, bufio.NewReaderSize(conn, script.MaxLine)}
}

// meet opens the channel and waits for the guest's greeting. What comes before
// may be left over from an earlier connection.
func meet(t *testing.T, m vmm.Machine) *talk {
	t.Helper()
	k := dial(t, m)
	k.greeting()
	return k
}

// greeting returns how many hang-ups the guest has seen.
func (k *talk) greeting() int {
	k.t.Helper()
	for {
		line := k.line()
		if rest, ok := strings.CutPrefix(line, script.Hello+" "); ok {
			n, err := strconv.Atoi(rest)
			if err != nil {
				k.t.Fatalf("greeting %q", line)
			}
			return n
		}
	}
}

func (k *talk) line() string {
	k.t.Helper()
	line, err := k.in.ReadString('\n')
	if err != nil {
		k.t.Fatalf("the guest says nothing more: %v", err)
	}
	return strings.TrimSuffix(line, "\n")
}

// put sends a line without waiting for the answer.
func (k *talk) put(format string, args ...any) {
	k.t.Helper()
	if _, err := fmt.Fprintf(k.conn, format+"\n", args...); err != nil {
		k.t.Fatalf("write to the guest: %v", err)
	}
}

// ask sends a line and returns the answer.
func (k *talk) ask(format string, args ...any) (string, error) {
	k.t.Helper()
	k.put(format, args...)
	line := k.line()
	if rest, ok := strings.CutPrefix(line, "ok "); ok {
		return rest, nil
	}
	return "", fmt.Errorf("guest: %s", line)
}

// must is ask for what cannot be refused.
func (k *talk) must(format string, args ...any) string {
	k.t.Helper()
	said, err := k.ask(format, args...)
	if err != nil {
		k.t.Fatal(err)
	}
	return said
}

func (k *talk) number(format string, args ...any) int64 {
	k.t.Helper()
	said := k.must(format, args...)
	n, err := strconv.ParseInt(said, 10, 64)
	if err != nil {
		k.t.Fatalf("%q is no number", said)
	}
	return n
}
