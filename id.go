package dayfly

import (
	"crypto/rand"
	"encoding/base32"
	"strings"
)

// ID names a workspace for its whole life: the letter w and 20 lower-case
// base32 characters (100 random bits). It is safe in host names, file names
// and command lines, and holds no dash.
type ID string

const idChars = 20

var idEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewID returns a fresh random ID.
func NewID() ID {
	var b [13]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the process instead
	return ID("w" + idEncoding.EncodeToString(b[:])[:idChars])
}

// ParseID reports whether s has the form of an ID and returns it as one.
func ParseID(s string) (ID, error) {
	if len(s) != idChars+1 || s[0] != 'w' || strings.Trim(s[1:], "abcdefghijklmnopqrstuvwxyz234567") != "" {
		return "", Errorf(Invalid, "%q is not a workspace id", s)
	}
	return ID(s), nil
}
