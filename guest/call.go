package guest

import (
	"context"
	"io"

	"github.com/dayfly/dayfly/guest/wire"
)

// ahead makes a call ahead of the streams, if it is one of those, and says
// whether it was made. An error other than a *Refusal ends the session.
func (s *Session) ahead(ctx context.Context, path string, body []byte) (answer []byte, made bool, err error) {
	if !wire.MayCall(path) || len(body) > wire.MaxCall || s.mux.Load() != nil {
		return nil, false, nil
	}
	s.turn.Lock()
	defer s.turn.Unlock()
	if s.mux.Load() != nil {
		return nil, false, nil
	}
	var status int
	err = s.bounded(ctx, func() (err error) {
		status, answer, err = s.converse(wire.Call{Nonce: s.nonce, Path: path, Size: len(body)}, body)
		return err
	})
	if err == nil && status/100 != 2 {
		err = &Refusal{status, string(clip(answer))}
	}
	return answer, true, err
}

// converse says a call and reads its answer.
func (s *Session) converse(c wire.Call, body []byte) (status int, answer []byte, err error) {
	call := append(c.AppendLine(nil), body...)
	defer clear(call) // it may hold secrets
	var a wire.Answer
	err = s.say(call, func(line []byte) (ok bool) {
		a, ok = wire.CutAnswer(line)
		return ok && a.Nonce == s.nonce
	})
	if err != nil {
		return 0, nil, err
	}
	answer = make([]byte, a.Size)
	_, err = io.ReadFull(s.r, answer)
	return a.Status, answer, err
}
