package firecracker

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/vmm"
)

// pipe is a named pipe in a machine's directory that Firecracker writes to. It
// has a name for whoever adopts the machine. Firecracker holds it open for
// reading too, and never waits for it: with nobody here, what does not fit is
// lost, and nobody is blocked.
type pipe struct {
	r    *os.File
	done chan struct{} // closed when nothing more comes
}

// makePipe makes one and opens the end that Firecracker is to have, which it may
// have to open again by its number, whoever it is. Nobody else finds the pipe in
// a directory that is private.
func (h *home) makePipe(name string) (w *os.File, err error) {
	const all = 0o666
	err = h.use(func() error {
		if err := unix.Mkfifoat(int(h.dir.Fd()), name, all); err != nil {
			return err
		}
		if w, err = h.openPipe(name, unix.O_RDWR); err != nil {
			return err
		}
		return w.Chmod(all) // whatever the umask is
	})
	if err != nil {
		return nil, fmt.Errorf("firecracker: %s: %w", name, err)
	}
	return w, nil
}

func (h *home) openPipe(name string, how int) (*os.File, error) {
	fd, err := unix.Openat(int(h.dir.Fd()), name, how|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// readPipe begins to move what is written into to. The writer must have it open.
func (h *home) readPipe(name string, to io.Writer) (*pipe, error) {
	p := &pipe{done: make(chan struct{})}
	err := h.use(func() (err error) {
		p.r, err = h.openPipe(name, unix.O_RDONLY)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("firecracker: %s: %w", name, err)
	}
	go func() {
		defer close(p.done)
		_, _ = io.Copy(to, p.r) // ends with the last writer, or with close
	}()
	return p, nil
}

// drainLimit bounds how long the rest is read after the writer's end, should
// anybody else hold the pipe open.
const drainLimit = time.Second

// drain waits for what a writer that has ended left behind.
func (p *pipe) drain() {
	_ = p.r.SetReadDeadline(time.Now().Add(drainLimit))
	p.close()
}

// close reads no more. Unless drain called it, some may be left.
func (p *pipe) close() {
	if p == nil {
		return
	}
	<-p.done
	_ = p.r.Close()
}

// hangUp ends the reading at once.
func (p *pipe) hangUp() {
	_ = p.r.SetReadDeadline(time.Unix(1, 0))
	p.close()
}

// lines is a writer that hands on whole lines, none longer than a Tail.
type lines struct {
	in   *io.PipeWriter
	done chan struct{}
}

// newLines calls each for every line.
func newLines(each func([]byte)) *lines {
	out, in := io.Pipe()
	l := &lines{in, make(chan struct{})}
	go func() {
		defer close(l.done)
		s := bufio.NewScanner(out)
		s.Buffer(nil, vmm.ConsoleBytes)
		for s.Scan() {
			each(s.Bytes())
		}
		_, _ = io.Copy(io.Discard, out) // after a line too long: what follows makes no sense
	}()
	return l
}

func (l *lines) Write(p []byte) (int, error) { return l.in.Write(p) }

func (l *lines) close() {
	_ = l.in.Close()
	<-l.done
}
