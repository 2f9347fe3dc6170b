package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/dayfly/dayfly"
)

// The output of a main command is kept in two halves, each at most half of
// maxLog: when the newer one is full it takes the place of the older one.
const (
	maxLog    = 1 << 20
	olderHalf = ".1"
)

func openLogDir(dir string) error {
	if dir == "" {
		return errors.New("control: no directory for logs")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("control: logs: %w", err)
	}
	return nil
}

// logFile is the newer half. An id holds nothing but letters and digits.
func (c *Control) logFile(id dayfly.ID) string { return filepath.Join(c.opt.LogDir, string(id)+".log") }

// logWriter appends to a log. A log that cannot be written is none: what runs
// goes on.
type logWriter struct {
	path string
	mu   sync.Mutex
	file *os.File
	size int64
}

func (c *Control) openLog(id dayfly.ID) *logWriter {
	l := &logWriter{path: c.logFile(id)}
	l.open()
	return l
}

func (l *logWriter) open() {
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	l.file, l.size = f, 0
	if fi, err := f.Stat(); err == nil {
		l.size = fi.Size()
	}
}

func (l *logWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	rest := p
	for len(rest) > 0 {
		if l.size >= maxLog/2 {
			l.rotate()
		}
		if l.file == nil {
			return len(p), nil
		}
		n, err := l.file.Write(rest[:min(len(rest), int(maxLog/2-l.size))])
		l.size += int64(n)
		rest = rest[n:]
		if err != nil {
			return len(p), nil
		}
	}
	return len(p), nil
}

func (l *logWriter) rotate() {
	if l.file != nil {
		_ = l.file.Close()
		l.file = nil
	}
	_ = os.Rename(l.path, l.path+olderHalf)
	l.open()
}

// note writes a line of the server's own.
func (l *logWriter) note(text string) { _, _ = io.WriteString(l, noteLine(text)) }

func noteLine(text string) string { return "[dayfly] " + text + "\n" }

// unbooted says why the console of a machine that runs has nothing of a boot, by
// how it came to run.
var unbooted = map[dayfly.StartKind]string{
	dayfly.Restore:      "its kernel booted for a template, before this workspace was made. With cold set, a workspace boots one of its own",
	dayfly.Claim:        "its kernel booted for a template, before this workspace was made. With cold set, a workspace boots one of its own",
	dayfly.Resume:       "it went on from a pause, and what its kernel said before is not kept",
	dayfly.FromSnapshot: "it went on from a snapshot: its kernel booted for the workspace that this was taken of",
	dayfly.Forked:       "it went on as a copy: its kernel booted for the workspace that it was forked from",
}

// emptyConsole is what is shown in the place of a console that is empty.
func emptyConsole(ws dayfly.Workspace) []byte {
	why := unbooted[ws.StartKind]
	if why == "" {
		return nil
	}
	return []byte(noteLine("there is no boot log: " + why))
}

// Close is of the file; what was written is as safe as logs are.
func (l *logWriter) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}

// Log returns a part of what a workspace has written: of its console at boot, or
// of its main command. With Follow it ends when the workspace is gone, ctx ends,
// or the reader is closed.
func (c *Control) Log(ctx context.Context, id dayfly.ID, q dayfly.LogQuery) (io.ReadCloser, error) {
	k, err := c.find(ctx, id)
	if err != nil {
		return nil, err
	}
	switch q.Source {
	case dayfly.BootLog, dayfly.CommandLog:
	default:
		return nil, dayfly.Errorf(dayfly.Invalid, "log source is %q: use boot or command", q.Source)
	}
	if q.Tail < 0 {
		return nil, dayfly.Errorf(dayfly.Invalid, "tail is %d: use 0 for all or a number of lines", q.Tail)
	}
	r := &logReader{c: c, k: k, q: q, ended: make(chan struct{})}
	if err := r.first(ctx); err != nil {
		return nil, err
	}
	r.ctxDone = ctx.Done()
	return r, nil
}

// logReader reads what is there, and then what comes. It looks once in a while:
// the file system tells nobody of what is written.
type logReader struct {
	c       *Control
	k       *keeper
	q       dayfly.LogQuery
	buf     []byte
	at      mark
	console []byte // as it was
	ctxDone <-chan struct{}
	once    sync.Once
	ended   chan struct{}
}

// mark is how far a log has been read. Inodes are used again, so that the newer
// half is known by the older one as well, which never changes.
type mark struct {
	file  os.FileInfo // the newer half as it was
	size  int64
	older time.Time // when the older half was last written
}

// followEvery is how often a followed log is looked at.
const followEvery = 250 * time.Millisecond

func (r *logReader) first(ctx context.Context) error {
	var err error
	if r.q.Source == dayfly.BootLog {
		r.console, err = r.c.node.Console(ctx, r.k.id)
		r.buf = r.console
	} else {
		for range 3 { // it may be rotated at this very moment
			if r.buf, r.at, err = readLog(r.c.logFile(r.k.id), mark{}); len(r.buf) > 0 || err != nil {
				break
			}
		}
	}
	r.buf = lastLines(r.buf, r.q.Tail)
	if r.q.Source == dayfly.BootLog && len(r.console) == 0 && err == nil {
		r.buf = emptyConsole(r.k.view.Load().Workspace)
	}
	return err
}

// more returns what has come since.
func (r *logReader) more() {
	if r.q.Source == dayfly.CommandLog {
		if b, at, err := readLog(r.c.logFile(r.k.id), r.at); err == nil {
			r.buf, r.at = b, at
		}
		return
	}
	ctx, cancel := context.WithTimeout(r.c.ended, storeTimeout)
	defer cancel()
	b, err := r.c.node.Console(ctx, r.k.id)
	if err != nil {
		return
	}
	r.buf, r.console = since(r.console, b), b
}

// overlap is how many bytes of a console are looked for in what it has become.
const overlap = 512

// since returns what of a bounded console is newer than what it was.
func since(was, is []byte) []byte {
	known := was[max(0, len(was)-overlap):]
	if i := bytes.LastIndex(is, known); i >= 0 {
		return is[i+len(known):]
	}
	return is
}

func (r *logReader) Read(p []byte) (int, error) {
	for len(r.buf) == 0 {
		if !r.q.Follow {
			return 0, io.EOF
		}
		t := time.NewTimer(followEvery)
		var over bool
		select {
		case <-r.ctxDone:
			over = true
		case <-r.ended:
			over = true
		case <-r.c.ended.Done():
			over = true
		case <-r.k.gone:
			r.q.Follow = false
		case <-t.C:
		}
		t.Stop()
		if over {
			return 0, io.EOF
		}
		r.more()
	}
	n := copy(p, r.buf)
	r.buf = r.buf[n:]
	return n, nil
}

func (r *logReader) Close() error {
	r.once.Do(func() { close(r.ended) })
	return nil
}

// readLog returns what is in a log after a mark. What was rotated away meanwhile
// is lost.
func readLog(path string, from mark) ([]byte, mark, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) { // it has none, or is between the two steps of a rotation
		return nil, from, nil
	}
	if err != nil {
		return nil, from, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, from, err
	}
	at := mark{file: fi}
	var older []byte
	before, err := os.Stat(path + olderHalf)
	if err == nil && os.SameFile(before, fi) {
		return nil, from, nil // rotated this very moment: the next look sees both
	}
	if err == nil {
		at.older = before.ModTime()
	}
	skip := from.size
	if from.file == nil || !os.SameFile(from.file, fi) || !at.older.Equal(from.older) || fi.Size() < from.size { // the newer half is another
		skip = 0
		older, err = os.ReadFile(path + olderHalf)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, from, err
		}
		if from.file != nil && before != nil && os.SameFile(from.file, before) && from.size <= int64(len(older)) {
			older = older[from.size:]
		}
	}
	if _, err := f.Seek(skip, io.SeekStart); err != nil {
		return nil, from, err
	}
	newer, err := io.ReadAll(io.LimitReader(f, maxLog))
	if err != nil {
		return nil, from, err
	}
	at.size = skip + int64(len(newer))
	return append(older, newer...), at, nil
}

// lastLines returns the last n lines of b, all of it for 0.
func lastLines(b []byte, n int) []byte {
	if n == 0 {
		return b
	}
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] == '\n' && i != len(b)-1 {
			if n--; n == 0 {
				return b[i+1:]
			}
		}
	}
	return b
}
