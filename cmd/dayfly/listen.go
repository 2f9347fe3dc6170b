package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"

	"github.com/dayfly/dayfly"
)

// endpoint is one address that a server listens at.
type endpoint struct {
	net.Listener
	local    bool // a unix socket that only its owner can connect to: who can is the host's own user
	loopback bool // web pages in a browser of this host can reach it, other machines cannot
	secure   bool // TLS
}

// address is what --host would be for it.
func (e endpoint) address() string {
	switch {
	case e.local:
		return "unix://" + e.Addr().String()
	case e.secure:
		return "https://" + e.Addr().String()
	}
	return "http://" + e.Addr().String()
}

// listenAll listens at every address of c, or at none.
func (c serveConfig) listenAll(ctx context.Context) (all []endpoint, err error) {
	defer func() {
		if err != nil {
			for _, e := range all {
				_ = e.Close()
			}
			all = nil
		}
	}()
	for _, address := range c.Listen {
		e, err := c.listenAt(ctx, address)
		if err != nil {
			return all, err
		}
		all = append(all, e)
	}
	return all, nil
}

// listenAt listens on a unix socket that only its owner can connect to, or on a
// TCP address. One that other machines can reach must have TLS.
func (c serveConfig) listenAt(ctx context.Context, address string) (e endpoint, err error) {
	if path, ok := strings.CutPrefix(address, "unix://"); ok {
		e.Listener, err = listenUnix(ctx, path)
		e.local = true
		return e, err
	}
	hostport, wantsTLS := strings.CutPrefix(address, "https://")
	hostport = strings.TrimPrefix(hostport, "http://")
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		return e, dayfly.Errorf(dayfly.Invalid, "listen %q: use unix:///path, host:port or https://host:port", address)
	}
	ip := net.ParseIP(host)
	e.loopback = host == "localhost" || ip != nil && ip.IsLoopback()
	e.secure = c.TLS.given() && (wantsTLS || !e.loopback)
	switch {
	case wantsTLS && !c.TLS.given():
		return e, dayfly.Errorf(dayfly.Invalid, "listen %q: TLS needs a certificate: give --tls-cert and --tls-key", address)
	case !e.loopback && !e.secure && !c.Insecure:
		return e, dayfly.Errorf(dayfly.Denied, "listen %q: other machines can reach it, and keys would travel in the clear: give --tls-cert and --tls-key, or use a loopback address behind a proxy; --insecure listens all the same", address)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", hostport)
	if err != nil {
		return e, dayfly.Errorf(dayfly.Unavailable, "%w", err)
	}
	e.Listener = l
	if !e.secure {
		return e, nil
	}
	certificate, err := newCertificate(c.TLS)
	if err != nil {
		return e, errors.Join(err, l.Close())
	}
	e.Listener = tls.NewListener(l, &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, GetCertificate: certificate.get,
	})
	return e, nil
}

func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	if !strings.HasPrefix(path, "/") {
		return nil, dayfly.Errorf(dayfly.Invalid, "listen unix://%s: the path must begin with /", path)
	}
	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}
	// Made under a name only we know, in the same directory, and moved into
	// place once nobody else may connect.
	hidden := fmt.Sprintf("%s.%d", path, os.Getpid())
	_ = os.Remove(hidden)
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", hidden)
	if err != nil {
		return nil, dayfly.Errorf(dayfly.Unavailable, "%w", err)
	}
	err = os.Chmod(hidden, 0o600)
	if err == nil {
		err = os.Rename(hidden, path)
	}
	if err != nil {
		_ = l.Close()
		return nil, dayfly.Errorf(dayfly.Unavailable, "listen: %w", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	return &movedListener{l, path}, nil
}

// movedListener is a unix listener whose socket was renamed.
type movedListener struct {
	net.Listener
	path string
}

func (l *movedListener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

func (l *movedListener) Close() error {
	_ = os.Remove(l.path)
	return l.Listener.Close()
}

// removeStale removes the socket of a server that died, and nothing else.
func removeStale(ctx context.Context, path string) error {
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return dayfly.Errorf(dayfly.Unavailable, "listen: %w", err)
	case st.Mode().Type() != fs.ModeSocket:
		return dayfly.Errorf(dayfly.Conflict, "listen: %s is there already and is not a socket", path)
	}
	var d net.Dialer
	if c, err := d.DialContext(ctx, "unix", path); err == nil {
		_ = c.Close()
		return dayfly.Errorf(dayfly.Conflict, "listen: a server answers at %s already", path)
	}
	return os.Remove(path)
}
