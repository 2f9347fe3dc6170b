package node

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest"
	"github.com/dayfly/dayfly/vmm"
)

// hello waits until the agent answers, the machine ends, or the deadline is over.
func (s *start) hello(ctx context.Context) error {
	if s.spare != nil {
		return nil // it has said it
	}
	deadline := s.w.node.BootDeadline
	if s.state != nil {
		deadline = min(deadline, restoreDeadline)
	}
	session, err := meet(ctx, s.parts.machine, deadline)
	if err != nil && s.base != nil && ctx.Err() == nil {
		s.coldBecause("the restored machine did not answer: ", err)
		s.back.Drop("vmm")
		if err := errors.Join(s.parts.machine.Close(), s.emptyDisk(ctx)); err != nil {
			return err
		}
		if err := s.launch(ctx); err != nil {
			return err
		}
		session, err = meet(ctx, s.parts.machine, s.w.node.BootDeadline)
	}
	if err != nil {
		return err
	}
	s.back.Push("session", func(context.Context) error { return session.Close() })
	s.parts.session = session
	return nil
}

// meet opens the channel of a machine and waits for its agent's hello.
func meet(ctx context.Context, m vmm.Machine, deadline time.Duration) (*guest.Session, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, deadline, dayfly.Errorf(dayfly.Unavailable, "no word from the guest's agent within %s", deadline))
	defer cancel()
	ctx, ended := context.WithCancelCause(ctx)
	defer ended(nil)
	go func() {
		select {
		case <-m.Done():
			ended(dayfly.Errorf(dayfly.Unavailable, "%s", endReason(m)))
		case <-ctx.Done():
		}
	}()
	conn, err := m.Channel(ctx)
	if err != nil {
		return nil, whyEnded(ctx, m, err)
	}
	session, _, err := guest.Open(ctx, conn)
	if err != nil {
		return nil, whyEnded(ctx, m, err)
	}
	return session, nil
}

// endGrace is how long a machine whose channel broke gets to be seen as ended,
// which says more than the broken channel does.
const endGrace = time.Second

// whyEnded prefers the cause that ended ctx, then the machine's end, with the
// last lines of the console where the cause does not have them.
func whyEnded(ctx context.Context, m vmm.Machine, err error) error {
	var no *guest.Refusal
	if errors.As(err, &no) { // it answers, so it has not ended
		return dayfly.Errorf(dayfly.Unavailable, "the guest could not prepare the workspace: %q%s", no.Said, consoleNote(m))
	}
	grace := time.NewTimer(endGrace)
	defer grace.Stop()
	select {
	case <-ctx.Done():
	case <-m.Done():
		return dayfly.Errorf(dayfly.Unavailable, "%s", endReason(m))
	case <-grace.C:
		return dayfly.Errorf(dayfly.Unavailable, "the guest's agent makes no sense: %v%s", err, consoleNote(m))
	}
	cause := context.Cause(ctx)
	var e *dayfly.Error
	if errors.As(cause, &e) && !strings.Contains(e.Msg, consoleHead) {
		return dayfly.Errorf(e.Kind, "%s%s", e.Msg, consoleNote(m))
	}
	return cause
}
