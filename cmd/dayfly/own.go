package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/api"
)

// Bounds on what a server takes from a caller.
const (
	maxRequestHeader = 64 << 10
	headerTimeout    = 30 * time.Second
	closeTimeout     = 2 * time.Minute // for starts to be undone
)

// backend is all that a server needs of its host.
type backend interface {
	options() api.Options // Log is the server's
	io.Closer
}

// server is an API over a backend, and its HTTP server.
type server struct {
	back backend
	api  *api.Server
	http *http.Server
}

func newServer(back backend, log *slog.Logger) *server {
	o := back.options()
	o.Log = log
	s := &server{back: back, api: api.New(o)}
	s.http = &http.Server{
		Handler:           s.api,
		ReadHeaderTimeout: headerTimeout, // bodies and replies may be streams: they take as long as they take
		MaxHeaderBytes:    maxRequestHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return s
}

// Close takes no more requests, waits for those under way, and closes the
// backend, which ends what must not outlive it.
func (s *server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = s.http.Close()
	}
	return errors.Join(err, s.api.Close(), s.back.Close())
}

// ownServer is a server for this process alone. Its connections are pairs of
// unix sockets without a name: nobody else can reach it, and a process that is
// killed leaves no socket behind.
type ownServer struct {
	*server
	pairs *pairListener
	done  chan error
}

func startOwn(back backend, log *slog.Logger) *ownServer {
	o := &ownServer{server: newServer(back, log), pairs: newPairListener(), done: make(chan error, 1)}
	go func() { o.done <- o.http.Serve(o.pairs) }()
	return o
}

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Dial connects to the server.
func (o *ownServer) Dial(ctx context.Context) (net.Conn, error) { return o.pairs.Dial(ctx) }

// Close ends the server and waits until it is gone.
func (o *ownServer) Close() error {
	return errors.Join(o.server.Close(), ignoreClosed(<-o.done))
}

// pairListener is a net.Listener whose connections are made by Dial.
type pairListener struct {
	accept chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPairListener() *pairListener {
	return &pairListener{accept: make(chan net.Conn), closed: make(chan struct{})}
}

// Dial makes a connection and hands its other end to Accept.
func (l *pairListener) Dial(ctx context.Context) (net.Conn, error) {
	near, far, err := socketPair()
	if err != nil {
		return nil, err
	}
	select {
	case l.accept <- far:
		return near, nil
	case <-l.closed:
		err = net.ErrClosed
	case <-ctx.Done():
		err = ctx.Err()
	}
	return nil, errors.Join(err, near.Close(), far.Close())
}

// Accept waits for a connection.
func (l *pairListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accept:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close makes Accept and Dial fail.
func (l *pairListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr is a unix address without a name.
func (l *pairListener) Addr() net.Addr { return &net.UnixAddr{Net: "unix"} }

func socketPair() (near, far net.Conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	if near, err = fdConn(fds[0]); err != nil {
		_ = unix.Close(fds[1])
		return nil, nil, err
	}
	if far, err = fdConn(fds[1]); err != nil {
		_ = near.Close()
		return nil, nil, err
	}
	return near, far, nil
}

func fdConn(fd int) (net.Conn, error) {
	f := os.NewFile(uintptr(fd), "socketpair")
	defer f.Close() // FileConn has a descriptor of its own
	return net.FileConn(f)
}
