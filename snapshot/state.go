package snapshot

import (
	"context"

	"github.com/dayfly/dayfly"
)

// The file state is a header and one sealed piece.
const stateHeader = "dayfly-state\n\x00\x00\x00\x01"

// stateFileSize is the size of the file for so many plain bytes.
func stateFileSize(plain int64) int64 { return int64(len(stateHeader)) + plain + tagLen }

// State writes the state of the machine's devices, at most 64 MiB. It is
// called once; plain is the caller's to clear.
func (w *Writer) State(ctx context.Context, plain []byte) error {
	if len(plain) > maxState {
		return dayfly.Errorf(dayfly.Invalid, "a machine's state of %d bytes cannot be kept: it must be at most %d", len(plain), maxState)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	f, err := w.create(stateName)
	if err != nil {
		return err
	}
	s, err := newSealer(&w.keys.state, w.keys.salt)
	if err != nil {
		return w.fail(err)
	}
	b := append(make([]byte, 0, stateFileSize(int64(len(plain)))), stateHeader...)
	b = s.seal(b, plain, statePiece, 0)
	if _, err := f.WriteAt(b, 0); err != nil {
		return w.fail(writeError("the snapshot's state", err))
	}
	w.body.State = int64(len(plain))
	w.body.Files[1] = stored{stateName, int64(len(b)), w.keys.digestOf(stateName, b)}
	return nil
}

// State returns the state of the machine's devices, which is the caller's to
// clear. It may run at the same time as the other methods, Close excepted.
func (g *Generation) State(ctx context.Context) ([]byte, error) {
	if err := g.usable(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	want := g.body.Files[1]
	f, err := g.open(stateName, want.Size)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, want.Size) // at most maxState and a header, as the manifest was checked
	if err := readFull(f, stateName, b, 0); err != nil {
		return nil, err
	}
	if string(b[:len(stateHeader)]) != stateHeader || !same(g.keys.digestOf(stateName, b), want.Digest) {
		return nil, damaged(stateName, "header or digest")
	}
	s, err := newSealer(&g.keys.state, g.keys.salt)
	if err != nil {
		return nil, err
	}
	plain, err := s.open(b[len(stateHeader):], statePiece, 0)
	if err != nil {
		return nil, damaged(stateName, "tag")
	}
	return plain, nil
}
