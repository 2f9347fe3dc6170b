package agent

import (
	"context"
	"errors"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/dayfly/dayfly/guest/wire"
)

// write passes input on, in whole, in the order of calls. It waits for the
// process to read, at most until ctx ends.
func (in *input) write(ctx context.Context, from *wire.ProcessInput) error {
	data, err := in.pick(from)
	if err != nil {
		return err
	}
	select {
	case in.turn <- struct{}{}:
		defer func() { <-in.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		_ = in.file.SetWriteDeadline(longAgo())
	})
	_, err = in.file.Write(data)
	if !stop() {
		<-interrupted
		_ = in.file.SetWriteDeadline(time.Time{})
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return context.Cause(ctx)
	case errors.Is(err, syscall.EPIPE), errors.Is(err, os.ErrClosed), errors.Is(err, syscall.EIO):
		return wire.Errorf(wire.FailedPrecondition, "the process does not read its input any more")
	}
	return wire.Errorf(wire.Internal, "input: %v", reason(err))
}

// pick returns the bytes, if they are meant for the kind of input there is.
func (in *input) pick(from *wire.ProcessInput) ([]byte, error) {
	switch {
	case from == nil || from.Stdin == nil && from.PTY == nil:
		return nil, wire.Errorf(wire.InvalidArgument, "input: neither stdin nor pty is set")
	case from.PTY != nil && !in.pty:
		return nil, wire.Errorf(wire.FailedPrecondition, "input: the process has no pty: send stdin")
	case from.Stdin != nil && in.pty:
		return nil, wire.Errorf(wire.FailedPrecondition, "input: the process has a pty: send pty")
	case in.file == nil:
		return nil, wire.Errorf(wire.FailedPrecondition, "input: the process was started without stdin")
	case in.pty:
		return *from.PTY, nil
	}
	return *from.Stdin, nil
}

func itoa(n int) string { return strconv.Itoa(n) }
