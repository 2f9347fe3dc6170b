package qemu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
)

// peer is the other end of a monitor, played by the test.
func peer(t *testing.T, events func(message)) (*monitor, net.Conn, *bufio.Reader) {
	t.Helper()
	ours, theirs := net.Pipe()
	m := newMonitor(ours, events)
	t.Cleanup(func() { _, _ = theirs.Close(), m.Close() })
	return m, theirs, bufio.NewReader(theirs)
}

func TestAnswersFindTheirCommands(t *testing.T) {
	t.Parallel()
	m, conn, in := peer(t, func(message) {})
	const n = 5
	go func() { // answers in the opposite order
		for range n {
			_, _ = in.ReadString('\n')
		}
		for id := n; id > 0; id-- {
			fmt.Fprintf(conn, `{"return": %d, "id": %d}`+"\n", id*10, id)
		}
	}()
	var all sync.WaitGroup
	for range n {
		c, err := m.send("query-status", nil)
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			var got uint64
			if err := c.wait(t.Context(), &got); err != nil || got != c.id*10 {
				t.Errorf("command %d is answered %d, %v", c.id, got, err)
			}
		})
	}
	all.Wait()
}

func TestHangUpEndsEveryWait(t *testing.T) {
	t.Parallel()
	m, conn, in := peer(t, func(message) {})
	c, err := func() (*call, error) {
		go func() {
			_, _ = in.ReadString('\n')
			_ = conn.Close()
		}()
		return m.send("stop", nil)
	}()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.wait(t.Context(), nil); !errors.Is(err, errMonitorClosed) {
		t.Errorf("wait = %v", err)
	}
	if _, err := m.send("stop", nil); !errors.Is(err, errMonitorClosed) {
		t.Errorf("send = %v", err)
	}
}

func TestForgottenCommandsDoNotPileUp(t *testing.T) {
	t.Parallel()
	m, _, in := peer(t, func(message) {})
	go func() {
		for {
			if _, err := in.ReadString('\n'); err != nil {
				return
			}
		}
	}()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 2 * maxAwaited {
		if err := m.execute(ctx, "stop", nil, nil); !errors.Is(err, context.Canceled) {
			t.Fatalf("execute = %v", err)
		}
	}
}

func TestNonsenseEndsTheMonitor(t *testing.T) {
	t.Parallel()
	for _, in := range []string{"nonsense\n", `{"return": {}}` + "\n"} {
		m, conn, _ := peer(t, func(message) {})
		if _, err := conn.Write([]byte(in)); err != nil {
			t.Fatal(err)
		}
		<-m.ended
		if m.Err() == nil {
			t.Errorf("%q was taken for QMP", in)
		}
	}
}
