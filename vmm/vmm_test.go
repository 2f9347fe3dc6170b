package vmm_test

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"github.com/dayfly/dayfly/vmm"
)

func TestTailKeepsTheLastBytes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 20).Draw(t, "limit")
		writes := rapid.SliceOf(rapid.SliceOfN(rapid.Byte(), 0, 30)).Draw(t, "writes")
		tail := vmm.NewTail(limit)
		var all []byte
		for _, w := range writes {
			if n, err := tail.Write(w); n != len(w) || err != nil {
				t.Fatalf("Write = %d, %v", n, err)
			}
			all = append(all, w...)
		}
		if want := all[max(0, len(all)-limit):]; !bytes.Equal(tail.Bytes(), want) {
			t.Fatalf("kept %q of %q, want %q", tail.Bytes(), all, want)
		}
	})
}
