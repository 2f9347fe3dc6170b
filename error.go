package dayfly

import (
	"errors"
	"fmt"
	"time"
)

// Kind says what the caller of a refused request may do about it.
type Kind string

// The kinds of error. The HTTP edge has one table from kinds to status codes.
const (
	Invalid     Kind = "invalid"     // the request can never work as it is
	NotFound    Kind = "not_found"   // what it names is not there
	Conflict    Kind = "conflict"    // the named thing is in a state that does not allow it
	Denied      Kind = "denied"      // the caller may not do this
	Exhausted   Kind = "exhausted"   // a bound or the disk is full
	Unavailable Kind = "unavailable" // this host or a remote party cannot do it now
	Internal    Kind = "internal"    // our fault
)

// Error is an error that may cross a process boundary.
type Error struct {
	Kind  Kind   `json:"kind"`
	Msg   string `json:"message"`         // for the caller: what was being done, why not, what to do next; never secrets
	Stage string `json:"stage,omitempty"` // the startup row, or other named step, at which it happened
	Err   error  `json:"-"`               // for our log; never sent

	// RetryAfter, unless 0, says that the same request may work after so long:
	// what is Exhausted or Unavailable passes by itself. It travels as a header.
	RetryAfter time.Duration `json:"-"`

	said error // a cause whose text Msg already holds
}

// Error returns the message, led by the stage where there is one.
func (e *Error) Error() string {
	s := e.Msg
	if e.Stage != "" {
		s = e.Stage + ": " + s
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the causes, which stay inside this process.
func (e *Error) Unwrap() []error { return []error{e.Err, e.said} }

// Errorf makes an Error of a kind. What a %w verb wraps stays reachable for
// errors.Is and is part of the message, so wrap only what a caller may read;
// to keep a cause out of the message, set Err.
func Errorf(kind Kind, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Kind: kind, Msg: err.Error(), said: errors.Unwrap(err)}
}

// KindOf returns the kind of the first Error in err's chain, Internal for any
// other error, and "" for nil.
func KindOf(err error) Kind {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Internal
}
