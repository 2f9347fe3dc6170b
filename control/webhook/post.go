package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"

	"github.com/dayfly/dayfly"
)

// CheckURL refuses what cannot be sent to, whatever it resolves to.
func CheckURL(raw string) error {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || len(raw) > maxURL {
		return dayfly.Errorf(dayfly.Invalid, "webhook url %q: use http:// or https:// and a host, %d bytes at most", raw, maxURL)
	}
	if u.User != nil || u.Fragment != "" {
		return dayfly.Errorf(dayfly.Invalid, "webhook url: leave out user, password and fragment; what is sent is signed")
	}
	return nil
}

const maxURL = 2 << 10

// poster sends requests to addresses that may be reached.
type poster struct{ client *http.Client }

func newPoster(private bool) *poster {
	dialer := &net.Dialer{Timeout: attemptTimeout, Control: func(_, address string, _ syscall.RawConn) error { return mayReach(address, private) }}
	t := &http.Transport{
		Proxy:       nil, // which would resolve the name for us, and reach what we must not
		DialContext: dialer.DialContext, ForceAttemptHTTP2: true, TLSHandshakeTimeout: attemptTimeout,
		MaxIdleConnsPerHost: 1, MaxIdleConns: 64, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 64 << 10,
	}
	return &poster{&http.Client{
		Transport: t, Timeout: attemptTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func (p *poster) close() { p.client.CloseIdleConnections() }

// never are networks that no webhook may reach: what only the host itself, its
// link or its cloud answers on.
var never = []netip.Prefix{
	netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fe80::/10"), // link-local: metadata services
	netip.MustParsePrefix("fd00:ec2::/32"),                              // metadata services of one cloud
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("::/128"), // this host, by another name
	netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("ff00::/8"), // multicast
	netip.MustParsePrefix("240.0.0.0/4"), // reserved, and broadcast
}

// inner are networks that are reached only if that is allowed.
var inner = []netip.Prefix{
	netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"),
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("fc00::/7"),
}

// mapped are networks in which an IPv4 address is written as an IPv6 one.
var mapped = []netip.Prefix{netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("::/96")}

// mayReach decides on the address that a name came to, right before it is
// connected to: no later answer of a name server changes it.
func mayReach(address string, private bool) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	ip := ap.Addr().Unmap().WithZone("")
	for _, p := range mapped {
		if b := ip.As16(); ip.Is6() && p.Contains(ip) && ip != netip.IPv6Loopback() && !ip.IsUnspecified() {
			ip = netip.AddrFrom4([4]byte(b[12:]))
		}
	}
	for _, p := range never {
		if p.Contains(ip) {
			return errForbidden
		}
	}
	for _, p := range inner {
		if p.Contains(ip) && !private {
			return errPrivate
		}
	}
	return nil
}

var (
	errForbidden = errors.New("the address is link-local, multicast or unspecified, which webhooks never reach")
	errPrivate   = errors.New("the address is a private one, which this server's webhooks do not reach")
)

// send posts an event and returns the status of the answer. Anything but 2xx is
// an error.
func (p *poster) send(ctx context.Context, w dayfly.Webhook, ev dayfly.Event, at time.Time) (int, error) {
	body, err := json.Marshal(ev)
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, bytes.NewReader(body))
	if err != nil {
		return 0, errors.New("its URL cannot be sent to")
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "dayfly/"+dayfly.Version)
	req.Header.Set("Dayfly-Webhook-Id", w.ID)
	if err := Sign(req.Header, w.Secret, Message{ID: ev.ID, At: at, Body: body}); err != nil {
		return 0, err
	}
	answer, err := p.client.Do(req)
	if err != nil {
		return 0, reason(err)
	}
	defer answer.Body.Close()
	_, _ = io.CopyN(io.Discard, answer.Body, maxAnswer)
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		return answer.StatusCode, fmt.Errorf("the receiver answered %d", answer.StatusCode)
	}
	return answer.StatusCode, nil
}

// reason words why there was no answer, in words of ours: what the other side
// sends is the owner's of the webhook to see, but not what resolves to what
// inside the server's network.
func reason(err error) error {
	var dns *net.DNSError
	var timeout interface{ Timeout() bool }
	switch {
	case errors.Is(err, errForbidden):
		return errForbidden
	case errors.Is(err, errPrivate):
		return errPrivate
	case errors.As(err, &dns):
		return errors.New("its host has no address")
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("no answer within %s", attemptTimeout)
	case errors.Is(err, syscall.ECONNREFUSED):
		return errors.New("the connection was refused")
	}
	return errors.New("the connection failed, or its certificate is not trusted")
}
