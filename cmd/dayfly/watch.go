package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

// screen shows a text that is replaced by the next: in place on a terminal, else
// one below the other.
type screen struct {
	w     io.Writer
	size  func() (cols, rows int) // nil: no terminal
	lines int                     // of the text that is shown
	shown bool
}

func newScreen(w io.Writer) *screen {
	s := &screen{w: w}
	if f, ok := file(w); ok && term.IsTerminal(int(f.Fd())) {
		s.size = func() (int, int) {
			cols, rows, err := term.GetSize(int(f.Fd()))
			if err != nil || cols < 1 || rows < 1 {
				return defaultSize.Cols, defaultSize.Rows
			}
			return cols, rows
		}
	}
	return s
}

// draw replaces what is shown. Lines are cut to the terminal, as one that wraps
// would be two to go back over.
func (s *screen) draw(text string) error {
	if s.size == nil {
		if s.shown {
			text = "\n" + text
		}
		s.shown = true
		_, err := io.WriteString(s.w, text)
		return err
	}
	cols, rows := s.size()
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	lines = lines[:min(len(lines), rows-1)]
	var out strings.Builder
	if s.lines > 0 {
		fmt.Fprintf(&out, "\x1b[%dA", s.lines)
	}
	out.WriteString("\r\x1b[J")
	for _, line := range lines {
		if r := []rune(line); len(r) >= cols {
			line = string(r[:cols-1])
		}
		out.WriteString(line + "\n")
	}
	s.lines = len(lines)
	_, err := io.WriteString(s.w, out.String())
	return err
}

// calm is how long changes are gathered before they are shown together.
const calm = 200 * time.Millisecond

// watchList lists again after every change, until it is interrupted.
func (a *app) watchList(ctx context.Context, cl *client.Client, f *lsFlags) error {
	last, err := lastEvent(ctx, cl)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	changes := make(chan error, 1) // nil: something happened
	go func() {
		for _, err := range cl.Events.Follow(ctx, dayfly.EventQuery{After: last}) {
			if err != nil {
				changes <- err
				return
			}
			select {
			case changes <- nil:
			default: // a list is due already
			}
		}
	}()
	s := newScreen(a.stdout)
	for {
		list, err := f.list(ctx, cl)
		if err == nil {
			err = a.showList(s, f, list)
		}
		if err != nil {
			return err
		}
		select {
		case err := <-changes:
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		wait(ctx, calm)
	}
}

// showList shows one state of a watched list; for scripts, on one line.
func (a *app) showList(s *screen, f *lsFlags, list []dayfly.Workspace) error {
	switch {
	case f.out.format.t != nil:
		return printList(a, f.out, list)
	case f.out.json:
		return f.out.printLine(a.stdout, append([]dayfly.Workspace{}, list...))
	}
	var text bytes.Buffer
	if f.quiet {
		for _, ws := range list {
			fmt.Fprintln(&text, ws.ID)
		}
	} else if err := table(&text, workspaceRows(list, f.all)...); err != nil {
		return err
	}
	return s.draw(text.String())
}

// wait returns after d, or when ctx ends.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// lastEvent returns the Seq of the last event there is, 0 without one. It looks
// between two that are found by doubling, as there may be very many.
func lastEvent(ctx context.Context, cl *client.Client) (int64, error) {
	after := func(seq int64) (int64, error) {
		list, err := cl.Events.List(ctx, dayfly.EventQuery{After: seq, Limit: 1})
		if err != nil || len(list) == 0 {
			return 0, err
		}
		if list[0].Seq <= seq {
			return 0, errors.New("the server's events are not in order")
		}
		return list[0].Seq, nil
	}
	var there, step int64 = 0, 1 // an event there is, or none: 0
	const most = int64(1) << 53  // what JSON can carry
	for step < most {
		seq, err := after(there + step)
		switch {
		case err != nil:
			return 0, err
		case seq != 0:
			there, step = seq, step*2
			continue
		case step > 1:
			step /= 2
			continue
		}
		break
	}
	for { // at most a few that are left, and those that came meanwhile
		seq, err := after(there)
		if err != nil || seq == 0 {
			return there, err
		}
		there = seq
	}
}
