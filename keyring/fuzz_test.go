package keyring

import (
	"bytes"
	"errors"
	"testing"
)

// FuzzKeyFile: any bytes in a key file give a key or ErrCorrupted, and what is
// accepted is what encode writes.
func FuzzKeyFile(f *testing.F) {
	good, err := encode([]byte("wrapped"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(magic))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		wrapped, err := decode(b)
		if err != nil {
			if !errors.Is(err, ErrCorrupted) {
				t.Fatalf("decode = %v", err)
			}
			return
		}
		again, err := encode(wrapped)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("accepted bytes that encode would not write: %v", err)
		}
	})
}

// FuzzUnwrap: without the master key nobody makes bytes that unwrap.
func FuzzUnwrap(f *testing.F) {
	m, err := newWrapper(make([]byte, masterLen))
	if err != nil {
		f.Fatal(err)
	}
	// A fixed nonce: each fuzzing process makes these bytes anew.
	good := append(append([]byte{wrapVersion}, m.fingerprint[:]...), make([]byte, nonceLen)...)
	good = m.aead.Seal(good, good[1+printLen:wrapHeader], make([]byte, KeySize), []byte("w"))
	f.Add(good, "w")
	f.Add(good[:wrapHeader], "w")
	f.Add([]byte{}, "")
	f.Fuzz(func(t *testing.T, b []byte, keyContext string) {
		_, err := m.Unwrap(t.Context(), b, keyContext)
		if err == nil && (!bytes.Equal(b, good) || keyContext != "w") {
			t.Fatal("a forged key was unwrapped")
		}
		if err != nil && !errors.Is(err, ErrCorrupted) && !errors.Is(err, ErrWrongMaster) {
			t.Fatalf("Unwrap = %v", err)
		}
	})
}
