package wire_test

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/dayfly/dayfly/guest/wire"
)

func TestHelloLineIsItsJSON(t *testing.T) {
	t.Parallel()
	h := wire.Hello{Dayfly: wire.ProtocolVersion, Agent: "0.1.0-dev+abc", Init: true, Nonce: "00ff"}
	want, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	if got := h.AppendLine(nil); string(got) != string(want)+"\n" {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func FuzzWord(f *testing.F) {
	f.Add([]byte(wire.Hail+"0123456789abcdef0123456789abcdef\n"), "v\"1\\\n")
	f.Add([]byte(wire.Go+"\n"), "")
	f.Fuzz(func(t *testing.T, line []byte, version string) {
		for _, word := range []string{wire.Hail, wire.Go, wire.Ready} {
			if nonce, ok := wire.CutWord(line, word); ok && !bytes.Equal(wire.AppendWord(nil, word, nonce), line) {
				t.Errorf("%q holds %q", line, nonce)
			}
		}
		var h wire.Hello
		said := wire.Hello{Agent: version}
		if err := json.Unmarshal(said.AppendLine(nil), &h); err != nil {
			t.Errorf("a hello of version %q: %v", version, err)
		}
	})
}
