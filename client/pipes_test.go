package client_test

import (
	"context"
	"net"
	"net/http"
	"sync"
	"testing"

	"github.com/dayfly/dayfly/client"
)

// overPipes returns a client of a handler over connections that a bubble of
// synctest knows. done must be called at its end.
func overPipes(t *testing.T, h http.Handler) (*client.Client, *http.Server, func()) {
	t.Helper()
	l := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	srv := &http.Server{Handler: h}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(l)
	}()
	c, err := client.New(client.Options{Dial: func(context.Context) (net.Conn, error) {
		near, far := net.Pipe()
		l.conns <- far
		return near, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	return c, srv, func() {
		_ = c.Close()
		_ = srv.Close()
		<-served
	}
}

type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (*pipes) Addr() net.Addr { return &net.UnixAddr{Net: "pipe"} }
