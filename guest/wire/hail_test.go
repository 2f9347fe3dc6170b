package wire_test

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/dayfly/dayfly/guest/wire"
)

func TestHelloLineIsItsJSON(t *testing.T) {
	t.Parallel()
	for _, calls := range []bool{false, true} {
		h := wire.Hello{Dayfly: wire.ProtocolVersion, Agent: "0.1.0-dev+abc", Init: true, Calls: calls, Nonce: "00ff"}
		want, err := json.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		if got := h.AppendLine(nil); string(got) != string(want)+"\n" {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

const nonce = "0123456789abcdef0123456789abcdef"

func TestCallsAndAnswersAreExact(t *testing.T) {
	t.Parallel()
	call := wire.Call{Nonce: nonce, Path: wire.RenewPath, Size: 12}
	if got, ok := wire.CutCall(call.AppendLine(nil)); !ok || got != call {
		t.Errorf("%+v, %v", got, ok)
	}
	answer := wire.Answer{Nonce: nonce, Status: 503, Size: wire.MaxCall}
	if got, ok := wire.CutAnswer(answer.AppendLine(nil)); !ok || got != answer {
		t.Errorf("%+v, %v", got, ok)
	}
	for _, line := range []string{
		"dayfly-call " + nonce + " /renew 12",            // no end
		"dayfly-call " + nonce + " renew 12\n",           // no path
		"dayfly-call " + nonce[1:] + " /renew 12\n",      // half a nonce
		"dayfly-call " + nonce + " /renew -1\n",          // no size
		"dayfly-call " + nonce + " /renew 12 \n",         // more
		"dayfly-call " + nonce + " /renew 65537\n",       // too long
		"dayfly-call " + nonce + " /renew\n",             // no size
		"dayfly-call \n", "dayfly-call", "", "\n", nonce, // nothing
	} {
		if c, ok := wire.CutCall([]byte(line)); ok {
			t.Errorf("%q calls for %+v", line, c)
		}
	}
	for _, line := range []string{
		"dayfly-answer " + nonce + " 20 1\n", "dayfly-answer " + nonce + " 099 1\n", "dayfly-answer " + nonce + " 2000 1\n",
		"dayfly-answer " + nonce + " -20 1\n", "dayfly-answer " + nonce + " 200\n", "dayfly-answer x 200 1\n",
	} {
		if a, ok := wire.CutAnswer([]byte(line)); ok {
			t.Errorf("%q answers %+v", line, a)
		}
	}
}

func FuzzWord(f *testing.F) {
	f.Add([]byte(wire.Hail+"0123456789abcdef0123456789abcdef\n"), "v\"1\\\n")
	f.Add([]byte(wire.Go+"\n"), "")
	f.Add([]byte("dayfly-call "+nonce+" /thaw 0\n"), "")
	f.Add([]byte("dayfly-answer "+nonce+" 204 0\n"), "")
	f.Fuzz(func(t *testing.T, line []byte, version string) {
		for _, word := range []string{wire.Hail, wire.Go, wire.Ready} {
			if nonce, ok := wire.CutWord(line, word); ok && !bytes.Equal(wire.AppendWord(nil, word, nonce), line) {
				t.Errorf("%q holds %q", line, nonce)
			}
		}
		if c, ok := wire.CutCall(line); ok && (c.Size < 0 || c.Size > wire.MaxCall) {
			t.Errorf("%q calls for %+v", line, c)
		}
		if a, ok := wire.CutAnswer(line); ok && (a.Size < 0 || a.Size > wire.MaxCall || a.Status < 100 || a.Status > 999) {
			t.Errorf("%q answers %+v", line, a)
		}
		var h wire.Hello
		said := wire.Hello{Agent: version}
		if err := json.Unmarshal(said.AppendLine(nil), &h); err != nil {
			t.Errorf("a hello of version %q: %v", version, err)
		}
	})
}
