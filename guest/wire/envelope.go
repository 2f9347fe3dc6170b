package wire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
)

// A streaming body is a row of envelopes: one byte of flags, a big-endian
// uint32 length, and that many bytes.
const (
	envelopeHeader = 5

	flagCompressed = 1 // never sent, and refused
	flagEnd        = 2 // the last envelope of a response: errors and trailers
)

// Bounds on one message.
const (
	MaxRequest  = 16 << 20 // what the agent takes: a message, or a whole unary body
	MaxResponse = 64 << 20 // what a client takes
)

// ReadEnvelope reads one envelope of at most limit bytes, into buf where it
// fits. At a clean end it returns io.EOF; inside an envelope it returns
// io.ErrUnexpectedEOF; a longer one is an Error with ResourceExhausted.
func ReadEnvelope(r io.Reader, buf []byte, limit int) (flags byte, payload []byte, err error) {
	var head [envelopeHeader]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	size := binary.BigEndian.Uint32(head[1:])
	if uint64(size) > uint64(limit) {
		return 0, nil, Errorf(ResourceExhausted, "message of %d bytes: at most %d are taken", size, limit)
	}
	payload, err = readPayload(r, buf, int(size))
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return head[0], payload, err
}

// readStep is how much is allocated on the word of a length alone.
const readStep = 1 << 20

func readPayload(r io.Reader, buf []byte, size int) ([]byte, error) {
	if size <= cap(buf) {
		buf = buf[:size]
		_, err := io.ReadFull(r, buf)
		return buf, err
	}
	buf = make([]byte, 0, min(size, readStep))
	for len(buf) < size {
		if len(buf) == cap(buf) {
			buf = append(make([]byte, 0, min(size, 2*cap(buf))), buf...)
		}
		n := len(buf)
		buf = buf[:min(cap(buf), size)]
		if _, err := io.ReadFull(r, buf[n:]); err != nil {
			return nil, err
		}
	}
	return buf, nil
}

// appendEnvelope adds an envelope around what fill appends.
func appendEnvelope(dst []byte, flags byte, fill func([]byte) ([]byte, error)) ([]byte, error) {
	at := len(dst)
	dst = append(dst, flags, 0, 0, 0, 0)
	dst, err := fill(dst)
	if err != nil {
		return nil, err
	}
	binary.BigEndian.PutUint32(dst[at+1:], uint32(len(dst)-at-envelopeHeader))
	return dst, nil
}

// jsonAppender is a message that encodes itself without reflection.
type jsonAppender interface {
	AppendJSON(dst []byte) []byte
}

// AppendMessage adds the envelope of one message to dst.
func AppendMessage(dst []byte, msg any) ([]byte, error) {
	return appendEnvelope(dst, 0, func(dst []byte) ([]byte, error) { return appendJSON(dst, msg) })
}

func appendJSON(dst []byte, msg any) ([]byte, error) {
	if a, ok := msg.(jsonAppender); ok {
		return a.AppendJSON(dst), nil
	}
	b, err := json.Marshal(msg)
	if err != nil {
		return nil, &Error{Code: Internal, Message: "encode message: " + err.Error(), Err: err}
	}
	return append(dst, b...), nil
}

// endStream is the JSON of the last envelope of a response.
type endStream struct {
	Error    *Error              `json:"error,omitempty"`
	Metadata map[string][]string `json:"metadata,omitempty"`
}

// appendEnd adds the last envelope of a response to dst.
func appendEnd(dst []byte, err error) []byte {
	if err == nil {
		return append(dst, flagEnd, 0, 0, 0, 2, '{', '}')
	}
	dst, _ = appendEnvelope(dst, flagEnd, func(dst []byte) ([]byte, error) {
		return appendJSON(dst, endStream{Error: asError(err)}) // strings only: cannot fail
	})
	return dst
}

// decodeEnd reads the last envelope: io.EOF for a good end, or the error.
func decodeEnd(payload []byte) error {
	var end endStream
	if err := json.Unmarshal(payload, &end); err != nil {
		return &Error{Code: Internal, Message: "end of stream: " + err.Error(), Err: err}
	}
	if end.Error != nil {
		return end.Error
	}
	return io.EOF
}
