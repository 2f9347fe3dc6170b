package main

import (
	"errors"
	"io"
	"os"
	"sync"

	"golang.org/x/term"

	"github.com/dayfly/dayfly/client"
)

// defaultSize is a terminal's size where there is none to ask.
var defaultSize = client.Size{Cols: 80, Rows: 24}

// terminal is the user's: where its size is asked, and what it must be put back to.
type terminal struct {
	size *os.File // nil: there is none

	mu      sync.Mutex
	raw     *os.File
	restore *term.State
}

// newTerminal looks for a terminal among the streams. With input, standard
// input must be one, and becomes raw: every key goes to the command.
func newTerminal(stdin io.Reader, stdout io.Writer, input bool) (*terminal, error) {
	t := &terminal{}
	for _, stream := range []any{stdout, stdin} {
		if f, ok := file(stream); ok && term.IsTerminal(int(f.Fd())) {
			t.size = f
		}
	}
	if !input {
		return t, nil
	}
	f, ok := file(stdin)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil, errors.New("-t with -i wants a terminal as standard input: leave out -t to pipe")
	}
	state, err := term.MakeRaw(int(f.Fd()))
	if err != nil {
		return nil, err
	}
	t.raw, t.restore = f, state
	return t, nil
}

// Size returns the terminal's size now.
func (t *terminal) Size() client.Size {
	if t.size == nil {
		return defaultSize
	}
	cols, rows, err := term.GetSize(int(t.size.Fd()))
	if err != nil || cols == 0 || rows == 0 {
		return defaultSize
	}
	return client.Size{Cols: cols, Rows: rows}
}

// Close puts the terminal back as it was. It may be called twice.
func (t *terminal) Close() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.restore != nil {
		_ = term.Restore(int(t.raw.Fd()), t.restore)
		t.restore = nil
	}
}
