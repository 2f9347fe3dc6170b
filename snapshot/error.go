package snapshot

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/dayfly/dayfly"
)

// damaged says which file of a generation is not what was committed.
func damaged(name, why string, args ...any) error {
	remedy := "use an older one, or start cold from its disk"
	if strings.HasPrefix(name, diskPrefix) {
		remedy = "use an older one, or put its disk back from a backup"
	}
	return &dayfly.Error{
		Kind: dayfly.Internal,
		Msg:  fmt.Sprintf("the snapshot cannot be used, its %s is damaged: %s", name, remedy),
		Err:  fmt.Errorf("%s: %s: %w", name, fmt.Sprintf(why, args...), ErrDamaged),
	}
}

// writeError is what a caller sees of a write that went wrong.
func writeError(what string, err error) error {
	switch {
	case canceled(err), isOurs(err):
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return &dayfly.Error{Kind: dayfly.Exhausted, Msg: "no space left to write " + what + ": free some in the state directory, such as by deleting a snapshot, and try again", Err: err}
	}
	return &dayfly.Error{Kind: dayfly.Internal, Msg: what + " cannot be written: see the log", Err: err}
}

// readError is what a caller sees of a read that went wrong; that there was
// less to read than there should be is for the reader to tell.
func readError(what string, err error) error {
	if canceled(err) || isOurs(err) {
		return err
	}
	return &dayfly.Error{Kind: dayfly.Internal, Msg: what + " cannot be read: see the log", Err: err}
}

func canceled(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// isOurs reports whether err already says what a caller may read.
func isOurs(err error) bool {
	var e *dayfly.Error
	return errors.As(err, &e)
}
