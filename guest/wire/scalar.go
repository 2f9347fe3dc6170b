package wire

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Bytes is a protobuf bytes field: base64 in JSON. It reads all four forms the
// proto3 JSON mapping allows: standard or URL alphabet, padded or not.
type Bytes []byte

// UnmarshalJSON reads any of the forms.
func (b *Bytes) UnmarshalJSON(in []byte) error {
	var s string
	if err := json.Unmarshal(in, &s); err != nil {
		return err
	}
	v, err := decodeBase64(s)
	if err != nil {
		return fmt.Errorf("bytes: %w", err)
	}
	*b = v
	return nil
}

func decodeBase64(s string) ([]byte, error) {
	s = strings.TrimRight(s, "=")
	if strings.ContainsAny(s, "-_") {
		return base64.RawURLEncoding.DecodeString(s)
	}
	return base64.RawStdEncoding.DecodeString(s)
}

// Int64 is a protobuf int64 field: a string in JSON, read as a number too.
type Int64 int64

// MarshalJSON writes a decimal string.
func (n Int64) MarshalJSON() ([]byte, error) {
	return strconv.AppendQuote(nil, strconv.FormatInt(int64(n), 10)), nil
}

// UnmarshalJSON reads a decimal string or number.
func (n *Int64) UnmarshalJSON(in []byte) error {
	if string(in) == "null" {
		return nil
	}
	v, err := strconv.ParseInt(strings.Trim(string(in), `"`), 10, 64)
	if err != nil {
		return fmt.Errorf("int64: %w", err)
	}
	*n = Int64(v)
	return nil
}

// enum reads a protobuf enum, written by name or by number, with the given
// names. A number without a name is kept, as proto3 does.
func enum(in []byte, byName func(string) (int32, bool)) (int32, error) {
	if string(in) == "null" {
		return 0, nil
	}
	if len(in) > 0 && in[0] == '"' {
		var s string
		if err := json.Unmarshal(in, &s); err != nil {
			return 0, err
		}
		if v, ok := byName(s); ok {
			return v, nil
		}
		return 0, fmt.Errorf("enum: unknown name %q", s)
	}
	v, err := strconv.ParseInt(string(in), 10, 32)
	if err != nil {
		return 0, fmt.Errorf("enum: %w", err)
	}
	return int32(v), nil
}

// byIndex finds a name in a list whose positions are the values.
func byIndex(names []string) func(string) (int32, bool) {
	return func(s string) (int32, bool) {
		for i, name := range names {
			if name == s {
				return int32(i), true
			}
		}
		return 0, false
	}
}

// enumJSON writes a value by its name, or by number where it has none.
func enumJSON(v int32, names []string) ([]byte, error) {
	if v >= 0 && int(v) < len(names) {
		return strconv.AppendQuote(nil, names[v]), nil
	}
	return strconv.AppendInt(nil, int64(v), 10), nil
}
