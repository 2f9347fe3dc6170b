package jail

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// The owner of a jail and its first process speak over a pair of sockets that
// keep messages apart, in turns:
//
//	owner ──► setup     ──► answer{}                 the jail waits
//	owner ──► start+fds ──► answer{}+listener ──► end of file: the VMM runs
//
// An answer with an error ends the first process. Nothing that is sent comes
// from a guest: the VMM never has the socket.

// setup is what of a jail is made ahead.
type setup struct {
	UID   int               `json:"uid"`
	Top   string            `json:"top"` // a directory of the host to mount the root over, in the jail's own view
	Binds []bind            `json:"binds"`
	Links map[string]string `json:"links"`
	KVM   bool              `json:"kvm"`
}

// start is what a jail is to run. Its descriptors follow: Files of them are the
// program's, from 0 on, the next is the Network's, if there is one, the others are
// the Mounts.
type start struct {
	Program string   `json:"program"`
	Args    []string `json:"args"`
	Env     []string `json:"env"`
	Dir     string   `json:"dir"`
	Files   int      `json:"files"`
	Network bool     `json:"network,omitempty"`
	Mounts  []mount  `json:"mounts"`
	Room    string   `json:"room,omitempty"`
	Places  []string `json:"places,omitempty"`
	Orphan  bool     `json:"orphan"`

	OpenFiles uint64 `json:"open_files"`
	FileSize  uint64 `json:"file_size"` // 0: no limit
	Processes uint64 `json:"processes"`
}

// mount is a tree of the host, cut off from it, and where it goes.
type mount struct {
	To    string `json:"to"`
	Dir   bool   `json:"dir"`
	Write bool   `json:"write"`
}

type answer struct {
	Error string `json:"error,omitempty"`
	Final bool   `json:"final,omitempty"` // the VMM is next
}

// Bounds of a message: what the kernel takes at once.
const (
	maxMessage = 128 << 10
	maxFDs     = 250
)

// send writes a message with descriptors.
func send(fd int, v any, fds []int) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > maxMessage || len(fds) > maxFDs {
		return fmt.Errorf("a message of %d bytes and %d descriptors: %d and %d are the most", len(b), len(fds), maxMessage, maxFDs)
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	return unix.Sendmsg(fd, b, rights, nil, unix.MSG_NOSIGNAL)
}

// receive reads a message and its descriptors; io.EOF says that the other end
// is closed.
func receive(fd int, v any) (fds []int, err error) {
	b, rights := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(maxFDs*4))
	var n, rn, flags int
	for {
		n, rn, flags, _, err = unix.Recvmsg(fd, b, rights, unix.MSG_CMSG_CLOEXEC)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, io.EOF
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		return nil, errors.New("a message that is too long")
	}
	list, err := unix.ParseSocketControlMessage(rights[:rn])
	if err != nil {
		return nil, err
	}
	for i := range list {
		more, err := unix.ParseUnixRights(&list[i])
		if err != nil {
			return fds, err
		}
		fds = append(fds, more...)
	}
	return fds, json.Unmarshal(b[:n], v)
}

// line is the owner's end.
type line struct{ conn *net.UnixConn }

// newLine returns both ends of a connection.
func newLine() (*line, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	theirs := os.NewFile(uintptr(fds[1]), "jail")
	f := os.NewFile(uintptr(fds[0]), "jail")
	defer f.Close() // FileConn has a copy
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return &line{conn.(*net.UnixConn)}, theirs, nil
}

// tell sends a message.
func (l *line) tell(v any, fds []int) error {
	raw, err := l.conn.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Write(func(fd uintptr) bool {
		sent = send(int(fd), v, fds)
		return !errors.Is(sent, unix.EAGAIN)
	})
	return errors.Join(err, sent)
}

// hear reads an answer and at most one descriptor, -1 if there is none.
func (l *line) hear() (a answer, listener int, err error) {
	raw, err := l.conn.SyscallConn()
	if err != nil {
		return a, -1, err
	}
	var fds []int
	var got error
	err = raw.Read(func(fd uintptr) bool {
		fds, got = receive(int(fd), &a)
		return !errors.Is(got, unix.EAGAIN)
	})
	if err == nil {
		err = got
	}
	listener = -1
	for i, fd := range fds {
		if i == 0 && err == nil {
			listener = fd
		} else {
			unix.Close(fd)
		}
	}
	return a, listener, err
}

// interrupt ends a tell or hear under way.
func (l *line) interrupt() { _ = l.conn.SetDeadline(time.Unix(1, 0)) }

func (l *line) close() { _ = l.conn.Close() }
