package wire

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/dayfly/dayfly"
)

// Code is a Connect error code, as https://connectrpc.com/docs/protocol spells
// it on the wire.
type Code string

// The codes of the Connect protocol.
const (
	Canceled           Code = "canceled"
	Unknown            Code = "unknown"
	InvalidArgument    Code = "invalid_argument"
	DeadlineExceeded   Code = "deadline_exceeded"
	NotFound           Code = "not_found"
	AlreadyExists      Code = "already_exists"
	PermissionDenied   Code = "permission_denied"
	ResourceExhausted  Code = "resource_exhausted"
	FailedPrecondition Code = "failed_precondition"
	Aborted            Code = "aborted"
	OutOfRange         Code = "out_of_range"
	Unimplemented      Code = "unimplemented"
	Internal           Code = "internal"
	Unavailable        Code = "unavailable"
	DataLoss           Code = "data_loss"
	Unauthenticated    Code = "unauthenticated"
)

// Error is the error of a procedure, on either side of the wire.
type Error struct {
	Code    Code
	Message string
	Details []Detail // machine-readable additions; most errors have none
	Err     error    // a local cause, never sent
}

// Detail is one machine-readable addition to an Error: a protobuf message by
// its full name and its encoding.
type Detail struct {
	Type  string
	Value []byte
}

// Errorf makes an Error. It keeps no cause: what crosses the wire is the text.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Error returns the code and the message.
func (e *Error) Error() string {
	if e.Message == "" {
		return string(e.Code)
	}
	return string(e.Code) + ": " + e.Message
}

// Unwrap returns the local cause.
func (e *Error) Unwrap() error { return e.Err }

// CodeOf returns the code of the first Error in err's chain, the matching code
// for a context's error, Unknown for any other error, and "" for nil.
func CodeOf(err error) Code {
	var e *Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e):
		return e.Code
	case errors.Is(err, context.Canceled):
		return Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return DeadlineExceeded
	}
	return Unknown
}

// asError turns any error into what the wire can carry.
func asError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Code: CodeOf(err), Message: err.Error(), Err: err}
}

// Status returns the HTTP status of a unary error, as Connect maps it.
func (c Code) Status() int {
	switch c {
	case Canceled:
		return 499 // nginx's "client closed request", which Connect adopted
	case InvalidArgument, FailedPrecondition, OutOfRange:
		return http.StatusBadRequest
	case DeadlineExceeded:
		return http.StatusGatewayTimeout
	case NotFound:
		return http.StatusNotFound
	case AlreadyExists, Aborted:
		return http.StatusConflict
	case PermissionDenied:
		return http.StatusForbidden
	case ResourceExhausted:
		return http.StatusTooManyRequests
	case Unimplemented:
		return http.StatusNotImplemented
	case Unavailable:
		return http.StatusServiceUnavailable
	case Unauthenticated:
		return http.StatusUnauthorized
	}
	return http.StatusInternalServerError
}

// known says whether c is one of the protocol's codes.
func (c Code) known() bool {
	switch c {
	case Canceled, Unknown, InvalidArgument, DeadlineExceeded, NotFound, AlreadyExists,
		PermissionDenied, ResourceExhausted, FailedPrecondition, Aborted, OutOfRange,
		Unimplemented, Internal, Unavailable, DataLoss, Unauthenticated:
		return true
	}
	return false
}

// errorJSON is an Error on the wire.
type errorJSON struct {
	Code    Code         `json:"code"`
	Message string       `json:"message,omitempty"`
	Details []detailJSON `json:"details,omitempty"`
}

type detailJSON struct {
	Type  string `json:"type"`
	Value string `json:"value"` // unpadded base64
}

// MarshalJSON writes the Connect form: code, message and details.
func (e *Error) MarshalJSON() ([]byte, error) {
	out := errorJSON{Code: e.Code, Message: e.Message}
	for _, d := range e.Details {
		out.Details = append(out.Details, detailJSON{d.Type, base64.RawStdEncoding.EncodeToString(d.Value)})
	}
	return json.Marshal(out)
}

// UnmarshalJSON reads the Connect form. A code it does not know becomes
// Unknown; a detail it cannot decode is dropped.
func (e *Error) UnmarshalJSON(b []byte) error {
	var in errorJSON
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	*e = Error{Code: in.Code, Message: in.Message}
	if !e.Code.known() {
		e.Code = Unknown
	}
	for _, d := range in.Details {
		if v, err := decodeBase64(d.Value); err == nil {
			e.Details = append(e.Details, Detail{d.Type, v})
		}
	}
	return nil
}

// errorFromResponse makes an Error of an HTTP answer that is not a success:
// Connect's own form, or what an edge in between answered.
func errorFromResponse(status int, body []byte) *Error {
	var in struct {
		Code    json.RawMessage `json:"code"`
		Kind    dayfly.Kind     `json:"kind"`
		Message string          `json:"message"`
		Detail  string          `json:"detail"` // of an RFC 9457 problem, as our edge has it
	}
	if json.Unmarshal(body, &in) != nil {
		return Errorf(codeFromStatus(status), "HTTP status %d", status)
	}
	if in.Message == "" {
		in.Message = in.Detail
	}
	var code Code
	if json.Unmarshal(in.Code, &code) == nil && code.known() {
		e := new(Error)
		if json.Unmarshal(body, e) == nil {
			return e
		}
	}
	if in.Message == "" {
		in.Message = fmt.Sprintf("HTTP status %d", status)
	}
	if c, ok := codeFromKind(in.Kind); ok {
		return &Error{Code: c, Message: in.Message}
	}
	return &Error{Code: codeFromStatus(status), Message: in.Message}
}

// codeFromStatus reads the status of an edge that does not speak Connect. The
// honest reading of 404 and 409 follows E2B's clients, not Connect's table,
// where an unknown route is "unimplemented".
func codeFromStatus(status int) Code {
	switch status {
	case http.StatusBadRequest:
		return InvalidArgument
	case http.StatusUnauthorized:
		return Unauthenticated
	case http.StatusForbidden:
		return PermissionDenied
	case http.StatusNotFound:
		return NotFound
	case http.StatusConflict:
		return AlreadyExists
	case http.StatusRequestEntityTooLarge, http.StatusTooManyRequests:
		return ResourceExhausted
	case http.StatusNotImplemented, http.StatusUnsupportedMediaType:
		return Unimplemented
	case http.StatusBadGateway, http.StatusServiceUnavailable:
		return Unavailable
	case http.StatusGatewayTimeout:
		return DeadlineExceeded
	}
	return Unknown
}

// Kind says what a caller may do about a refusal with this code; false: it says
// nothing of that, such as Internal.
func (c Code) Kind() (dayfly.Kind, bool) {
	k, ok := kinds[c]
	return k, ok
}

var kinds = map[Code]dayfly.Kind{
	InvalidArgument:    dayfly.Invalid,
	OutOfRange:         dayfly.Invalid,
	Unauthenticated:    dayfly.Denied,
	PermissionDenied:   dayfly.Denied,
	NotFound:           dayfly.NotFound,
	AlreadyExists:      dayfly.Conflict,
	FailedPrecondition: dayfly.Conflict,
	Aborted:            dayfly.Conflict,
	ResourceExhausted:  dayfly.Exhausted,
	Unavailable:        dayfly.Unavailable,
}

// codeFromKind reads the error of our own edge.
func codeFromKind(k dayfly.Kind) (Code, bool) {
	switch k {
	case dayfly.Invalid:
		return InvalidArgument, true
	case dayfly.NotFound:
		return NotFound, true
	case dayfly.Conflict:
		return FailedPrecondition, true
	case dayfly.Denied:
		return PermissionDenied, true
	case dayfly.Exhausted:
		return ResourceExhausted, true
	case dayfly.Unavailable:
		return Unavailable, true
	case dayfly.Internal:
		return Internal, true
	}
	return "", false
}
