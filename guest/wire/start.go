package wire

import (
	"encoding/binary"
	"errors"
)

// Exit codes of a command that could not be started, as shells have them.
const (
	ExitCannotExecute = 126 // found, but not executable
	ExitNotFound      = 127
)

// startFailureType names the detail of a Start error that says why: a
// protobuf message with one field, 1: the exit code as a varint.
const startFailureType = "dayfly.guest.v1.StartFailure"

// NewStartFailure makes the error of a command that cannot be started:
// invalid_argument, as E2B has it, with the shell's exit code as a detail.
func NewStartFailure(exitCode int, format string, args ...any) *Error {
	e := Errorf(InvalidArgument, format, args...)
	value := binary.AppendUvarint([]byte{1 << 3}, uint64(exitCode)) // tag of field 1, wire type varint
	e.Details = []Detail{{startFailureType, value}}
	return e
}

// StartFailure returns the exit code a shell would give for an error of Start:
// 127 for a command not found, 126 for one that is not executable. For any
// other error it returns false.
func StartFailure(err error) (exitCode int, ok bool) {
	var e *Error
	if !errors.As(err, &e) {
		return 0, false
	}
	for _, d := range e.Details {
		if d.Type != startFailureType || len(d.Value) < 2 || d.Value[0] != 1<<3 {
			continue
		}
		if n, size := binary.Uvarint(d.Value[1:]); size > 0 && n > 0 && n < 256 {
			return int(n), true
		}
	}
	return 0, false
}
