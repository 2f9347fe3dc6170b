package boot

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/url"

	"github.com/dayfly/dayfly/guest/wire"
)

// take carries out a call ahead of a session, and answers it. It returns false
// when the host hung up before all of the call was there. A body holds no
// newline: one with it is the hail of the next host, whose predecessor died in
// the middle of its call.
func (s *Sessions) take(conn io.Writer, in io.Reader, c wire.Call) (whole bool, err error) {
	body := make([]byte, c.Size)
	if _, err := io.ReadFull(in, body); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	defer clear(body) // it may hold secrets
	if bytes.IndexByte(body, '\n') >= 0 {
		return true, nil
	}
	said := reply{header: http.Header{}, status: http.StatusOK}
	if wire.MayCall(c.Path) {
		s.handler.ServeHTTP(&said, &http.Request{
			Method: http.MethodPost, URL: &url.URL{Path: c.Path}, Header: http.Header{},
			Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
		})
	} else {
		said.status = http.StatusNotFound
	}
	line := wire.Answer{Nonce: s.nonce, Status: said.status, Size: len(said.body)}.AppendLine(nil)
	_, err = conn.Write(append(line, said.body...))
	return err == nil, err
}

// reply is an http.ResponseWriter that keeps the answer.
type reply struct {
	header http.Header // nobody reads it
	status int
	body   []byte
}

func (r *reply) Header() http.Header { return r.header }

func (r *reply) WriteHeader(status int) { r.status = status }

var errReplyTooLong = errors.New("the answer to a call is too long")

func (r *reply) Write(p []byte) (int, error) {
	if len(r.body)+len(p) > wire.MaxCall {
		return 0, errReplyTooLong
	}
	r.body = append(r.body, p...)
	return len(p), nil
}
