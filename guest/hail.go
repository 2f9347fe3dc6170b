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

// meet hails the agent, answers its hello and waits until it is ready. What it
// reads too much stays in r. It reads all the while: an agent that is being
// answered may have more hellos to say first.
func meet(conn net.Conn, r *bufio.Reader) (hello wire.Hello, err error) {
	var b [wire.NonceLen / 2]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	nonce := hex.EncodeToString(b[:])
	heard, said := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(said)
		talk(conn, nonce, heard)
	}()
	defer func() {
		if err != nil {
			_ = conn.SetDeadline(time.Unix(1, 0)) // the guest may not read
		}
		<-said
	}()
	in := &lines{r: r}
	hello, err = in.hello(nonce)
	close(heard)
	if err != nil {
		return hello, err
	}
	for {
		line, err := in.next()
		if err != nil {
			return hello, err
		}
		if got, ok := wire.CutWord(line, wire.Ready); ok && got == nonce {
			return hello, nil
		}
	}
}

// talk is what the host says: hails until it was heard, then go. In this order
// a hail can never be behind the go, where it would break the session.
func talk(w io.Writer, nonce string, heard <-chan struct{}) {
	// The newline ends what the last host left on the line.
	hail := wire.AppendWord([]byte{'\n'}, wire.Hail, nonce)
	pause := firstPause
	for n := 1; ; n++ {
		say := hail
		if n >= patientHails {
			say = append(bytes.Repeat([]byte{' '}, padding), hail...)
		}
		if _, err := w.Write(say); err != nil {
			return // whoever reads says why
		}
		again := time.NewTimer(pause)
		select {
		case <-again.C:
		case <-heard:
			again.Stop()
			_, _ = w.Write(wire.AppendWord(nil, wire.Go, nonce))
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
