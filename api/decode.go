package api

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/dayfly/dayfly"
)

// maxJSON bounds a JSON request body. A Spec with the largest environment
// allowed is well below it, escapes included.
const maxJSON = 4 << 20

// bodyTimeout bounds how long a caller takes to send one.
const bodyTimeout = 30 * time.Second

// readJSON decodes r's body into v, or returns an Invalid error that names what
// is wrong with it.
func readJSON(w http.ResponseWriter, r *http.Request, v any) error {
	if mt, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); mt != "application/json" {
		// Also what keeps web pages out: a form cannot send this type.
		return dayfly.Errorf(dayfly.Invalid, "content type is %q: send application/json", r.Header.Get("Content-Type"))
	}
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(bodyTimeout))
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxJSON))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return badJSON(err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return dayfly.Errorf(dayfly.Invalid, "request body: something follows the JSON object")
	}
	// No longer than for the body: a deadline that passes later would look as if
	// the caller had left.
	_ = rc.SetReadDeadline(time.Time{})
	return nil
}

// readOptionalJSON is readJSON where a request without a body leaves v as it is.
func readOptionalJSON(w http.ResponseWriter, r *http.Request, v any) error {
	if r.ContentLength == 0 {
		return nil
	}
	return readJSON(w, r, v)
}

func badJSON(err error) error {
	var tooBig *http.MaxBytesError
	var mistyped *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &tooBig):
		return err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return dayfly.Errorf(dayfly.Invalid, "request body: it did not come within %s", bodyTimeout)
	case errors.Is(err, io.EOF):
		return dayfly.Errorf(dayfly.Invalid, "request body is empty: send a JSON object")
	case errors.As(err, &mistyped) && mistyped.Field != "":
		return dayfly.Errorf(dayfly.Invalid, "%s is a JSON %s: use a %s", mistyped.Field, mistyped.Value, mistyped.Type)
	case errors.As(err, &syntax), errors.Is(err, io.ErrUnexpectedEOF):
		return dayfly.Errorf(dayfly.Invalid, "request body is not JSON: %w", err)
	}
	// encoding/json has no type for an unknown field, only this text.
	if field, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return dayfly.Errorf(dayfly.Invalid, "unknown field %s", field)
	}
	return dayfly.Errorf(dayfly.Invalid, "request body: %s", strings.TrimPrefix(err.Error(), "json: "))
}
