// Package client talks to a Dayfly server: it makes workspaces, runs processes
// in them, pauses and copies them, and manages the snapshots, images and kernels
// they are made from.
//
//	c, err := client.New(client.Options{Address: "https://dayfly.example:7070", Key: key})
//	made, err := c.Workspaces.Create(ctx, dayfly.Spec{Image: "base"})
//	defer c.Workspaces.Delete(context.WithoutCancel(ctx), made.ID)
//	ws := c.Workspace(string(made.ID))
//	out, err := ws.Command(ctx, "uname", "-r").Output()
//	release, err := fs.ReadFile(ws.FS(ctx), "etc/os-release")
//
// Where a method takes an ID, a name or the beginning of an id does as well.
//
// What a server refuses comes back as a *dayfly.Error with its kind, message and
// stage; so does a server that cannot be reached, as Unavailable. All methods
// may be called at the same time. Cancelling the context of a call cancels the
// work it asked for, but for what must not end half-way: Stop, Pause, Rollback
// and Delete. What a server is too busy for just now is asked for again, as long
// as it says when and doing so twice does no harm.
package client

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client/internal/rest"
)

// Options say where the server is.
type Options struct {
	// Address is unix:///path/to/socket, http://host:port or https://host:port.
	Address string

	// Key is an API key or workspace token. A server's unix socket needs none.
	Key string

	// Namespace, if set, is the one that an admin's calls are about.
	Namespace string

	// TLS, if set, is used for https.
	TLS *tls.Config

	// Dial, if set, opens each connection instead, and Address may be empty.
	Dial func(ctx context.Context) (net.Conn, error)
}

// Client is a connection to one server. Make it with New.
type Client struct {
	Workspaces *Workspaces
	Snapshots  *Snapshots
	Images     *Images
	Kernels    *Kernels
	Host       *Host
	System     *System
	Events     *Events
	Webhooks   *Webhooks
	Keys       *Keys
	Namespaces *Namespaces

	base string
	http *http.Client
	rest *rest.Client
}

// idleConns is how many connections are kept for reuse. Commands run side by
// side hold one each, and a new one costs a handshake.
const idleConns = 32

// New returns a client of the server at o.Address. It connects when first used.
func New(o Options) (*Client, error) {
	base, dial, err := o.dialer()
	if err != nil {
		return nil, err
	}
	c := &Client{base: base, http: &http.Client{Transport: &sender{key: o.Key, namespace: o.Namespace, next: &http.Transport{
		DialContext:         dial,
		TLSClientConfig:     o.TLS,
		MaxIdleConnsPerHost: idleConns,
		IdleConnTimeout:     time.Minute,
		DisableCompression:  true,
	}}}}
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse } // no server of ours sends one, and a key is not for others
	if c.rest, err = rest.NewClient(base, rest.WithHTTPClient(c.http)); err != nil {
		return nil, dayfly.Errorf(dayfly.Invalid, "server address: %w", err)
	}
	c.Workspaces, c.Snapshots, c.System = &Workspaces{c}, &Snapshots{c}, &System{c}
	c.Events, c.Webhooks, c.Keys, c.Namespaces = &Events{c}, &Webhooks{c}, &Keys{c}, &Namespaces{c}
	c.Images, c.Kernels, c.Host = &Images{c}, &Kernels{c}, &Host{c}
	return c, nil
}

// Close closes connections that are not in use.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}

type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// local is the host name in requests that travel on no network.
const local = "http://localhost"

func (o Options) dialer() (base string, dial dialFunc, err error) {
	if o.Dial != nil {
		return local, func(ctx context.Context, _, _ string) (net.Conn, error) { return o.Dial(ctx) }, nil
	}
	var d net.Dialer
	if path, ok := strings.CutPrefix(o.Address, "unix://"); ok && strings.HasPrefix(path, "/") {
		return local, func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", path) }, nil
	}
	u, err := url.Parse(o.Address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return "", nil, dayfly.Errorf(dayfly.Invalid, "server address %q: use unix:///path or http://host:port", o.Address)
	}
	return strings.TrimSuffix(o.Address, "/"), d.DialContext, nil
}
