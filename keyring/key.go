package keyring

import (
	"fmt"
	"log/slog"
	"runtime"
)

// KeySize is the length of a Key in bytes.
const KeySize = 64

// Key is the AES-256-XTS key of one disk: 32 bytes that encrypt the data, then
// 32 that encrypt the sector numbers, as dm-crypt takes it. It never appears
// in a log, a message or JSON: every way of printing it gives the same word.
type Key [KeySize]byte

const redacted = "[key]"

// Clear overwrites the key with zeros, which ends its use. Copies that were
// made of it are the maker's to clear.
func (k *Key) Clear() {
	clear(k[:])
	runtime.KeepAlive(k)
}

// String returns a fixed word and nothing of the key.
func (Key) String() string { return redacted }

// GoString returns a fixed word and nothing of the key.
func (Key) GoString() string { return redacted }

// Format prints a fixed word for every verb: %d and %x would otherwise show
// the bytes of an array.
func (Key) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// MarshalJSON gives a fixed word and nothing of the key.
func (Key) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// MarshalText gives a fixed word and nothing of the key.
func (Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue gives a fixed word and nothing of the key.
func (Key) LogValue() slog.Value { return slog.StringValue(redacted) }
