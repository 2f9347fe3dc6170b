package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/guest/wire"
)

// vsockParam is the kernel parameter of a machine whose channel is vsock. It is
// the host's word: a guest cannot tell a port that is missing from one that is
// yet to come.
const vsockParam = "dayfly.channel=vsock"

// vsockPort is where the host asks for the agent; firecracker.AgentPort.
const vsockPort = 1024

// isVsock reports whether the channel is vsock, by the kernel's command line.
func isVsock(cmdline string) bool { return slices.Contains(strings.Fields(cmdline), vsockParam) }

func channelIsVsock() bool {
	b, _ := os.ReadFile("/proc/cmdline")
	return isVsock(string(b))
}

// serveVsock answers the host on each of its connections. The last one counts:
// with it the ones before end.
func (s *System) serveVsock(ctx context.Context, sessions *Sessions) error {
	l, err := listenSocket(unix.AF_VSOCK, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: vsockPort})
	if err != nil {
		return fmt.Errorf("channel: vsock: %w: the guest's kernel needs a driver for it", err)
	}
	return l.serve(ctx, sessions, s.hello)
}

// socket listens for connections of any kind of address.
type socket struct{ *os.File }

func listenSocket(domain int, at unix.Sockaddr) (*socket, error) {
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err = unix.Bind(fd, at); err == nil {
		err = unix.Listen(fd, unix.SOMAXCONN)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return &socket{os.NewFile(uintptr(fd), "channel")}, nil
}

// accept waits for a connection.
func (l *socket) accept() (*os.File, error) {
	raw, err := l.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	waitErr := raw.Read(func(listening uintptr) bool {
		fd, _, err = unix.Accept4(int(listening), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ECONNABORTED)
	})
	if waitErr != nil {
		return nil, waitErr
	}
	if err != nil {
		return nil, os.NewSyscallError("accept", err)
	}
	return os.NewFile(uintptr(fd), "channel"), nil
}

// serve answers on one connection after the other until ctx ends or nothing can
// be accepted any more. It closes the socket.
func (l *socket) serve(ctx context.Context, sessions *Sessions, hello func() wire.Hello) error {
	defer l.Close()
	stop := context.AfterFunc(ctx, func() { _ = l.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var serving sync.WaitGroup
	var last *os.File
	end := func() {
		if last != nil {
			_ = last.Close() // ends its session; it may have ended by itself
		}
		serving.Wait()
	}
	defer end()
	for {
		c, err := l.accept()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("channel: %w", err)
		}
		end()
		last = c
		serving.Go(func() { _ = sessions.Serve(c, hello) }) // an error is the host's hanging up
	}
}
