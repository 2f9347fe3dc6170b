package guest

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest/wire"
)

// maxStale bounds what is discarded ahead of the agent's answers: the end of a
// session that was left, at most what the channel can hold.
const maxStale = 1 << 20

// ErrHello means that what came over the channel was no agent's hello.
var ErrHello = errors.New("no hello from the guest")

// The pauses between hails double from the first to the longest.
const (
	firstPause   = 20 * time.Millisecond
	longestPause = time.Second
)

// An agent that was left in the middle of a frame takes what comes for the
// frame's content. So from patientHails on each hail follows padding, which
// fills the longest frame there is: a stream's window.
const (
	patientHails = 6
	padding      = 256 << 10
)

// newNonce is 32 hexadecimal digits that no other connection has.
func newNonce() string {
	var b [wire.NonceLen / 2]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// meet hails the agent and returns its hello. quiet is closed when no hail is
// written any more: whoever says something else waits for that, and reads
// meanwhile, as an agent that is being answered may have more hellos to say
// first. What is read too much stays in r.
func meet(conn net.Conn, r *bufio.Reader, nonce string) (hello wire.Hello, quiet <-chan struct{}, err error) {
	heard, said := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(said)
		hail(conn, nonce, heard)
	}()
	in := &lines{r: r}
	hello, err = in.hello(nonce)
	close(heard)
	if err != nil {
		_ = conn.SetDeadline(time.Unix(1, 0)) // the guest may not read
		<-said
	}
	return hello, said, err
}

// say writes, and reads lines until one is the answer.
func (s *Session) say(what []byte, isAnswer func(line []byte) bool) (err error) {
	said := make(chan struct{})
	go func() {
		defer close(said)
		<-s.quiet
		_, _ = s.conn.Write(what) // whoever reads says why
	}()
	defer func() {
		if err != nil {
			_ = s.conn.SetDeadline(time.Unix(1, 0)) // the guest may not read
		}
		<-said
	}()
	in := &lines{r: s.r}
	for {
		line, err := in.next()
		if err != nil {
			return err
		}
		if isAnswer(line) {
			return nil
		}
	}
}

// goOn says go and waits until the agent is ready.
func (s *Session) goOn() error {
	return s.say(wire.AppendWord(nil, wire.Go, s.nonce), func(line []byte) bool {
		got, ok := wire.CutWord(line, wire.Ready)
		return ok && got == s.nonce
	})
}

// hail hails until it was heard. When it has returned no hail of this host is
// written any more: behind a go it would break the session.
func hail(w io.Writer, nonce string, heard <-chan struct{}) {
	// The newline ends what the last host left on the line.
	line := wire.AppendWord([]byte{'\n'}, wire.Hail, nonce)
	pause := firstPause
	for n := 1; ; n++ {
		say := line
		if n >= patientHails {
			say = append(bytes.Repeat([]byte{' '}, padding), line...)
		}
		if _, err := w.Write(say); err != nil {
			return // whoever reads says why
		}
		again := time.NewTimer(pause)
		select {
		case <-again.C:
		case <-heard:
			again.Stop()
			return
		}
		pause = min(2*pause, longestPause)
	}
}

// lines reads the guest's lines, of bounded length and number.
type lines struct {
	r    *bufio.Reader
	read int
}

// next returns the next line, which is good until it is called again.
func (l *lines) next() ([]byte, error) {
	for l.read < maxStale {
		line, err := l.r.ReadSlice('\n')
		l.read += len(line)
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrHello, err)
		}
		return line, nil
	}
	return nil, fmt.Errorf("%w: %d bytes of something else", ErrHello, maxStale)
}

// hello discards lines until one is the answer to the hail with nonce.
func (l *lines) hello(nonce string) (wire.Hello, error) {
	for {
		line, err := l.next()
		if err != nil {
			return wire.Hello{}, err
		}
		h, ok := parseHello(line)
		switch {
		case !ok:
		case h.Dayfly != wire.ProtocolVersion:
			return h, dayfly.Errorf(dayfly.Unavailable, "the guest's agent speaks protocol %d and this host %d: rebuild the initramfs with the agent of this release", h.Dayfly, wire.ProtocolVersion)
		case h.Nonce == nonce:
			return h, nil
		}
	}
}

func parseHello(line []byte) (wire.Hello, bool) {
	var h wire.Hello
	if !bytes.HasPrefix(line, []byte("{")) {
		return h, false
	}
	err := json.Unmarshal(line, &h)
	return h, err == nil && h.Dayfly > 0
}
