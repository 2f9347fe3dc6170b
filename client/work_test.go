package client

import (
	"errors"
	"strings"
	"testing"

	"github.com/dayfly/dayfly"
)

func TestCutEventStreamIsNoSuccess(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		"", "\n", `{"progress":{"step":"a"}}`, `{"progress":{"step":"a"}}` + "\n" + `{"ima`, "not json\n", `{}` + "\n",
		strings.Repeat("x", maxLine+1),
	} {
		_, err := readEvents(strings.NewReader(s), nil)
		var e *dayfly.Error
		if !errors.As(err, &e) || e.Kind != dayfly.Unavailable {
			t.Errorf("%.40q: %v", s, err)
		}
	}
}

func TestNothingIsReadAfterTheLastEvent(t *testing.T) {
	t.Parallel()
	e, err := readEvents(strings.NewReader(`{"kernel":{"id":"k"}}`+"\n"+`{"error":{"kind":"internal","message":"late"}}`), nil)
	if err != nil || e.Kernel == nil || e.Kernel.ID != "k" {
		t.Errorf("%+v, %v", e, err)
	}
}

func FuzzEvents(f *testing.F) {
	f.Add(`{"progress":{"step":"a","done":1,"total":2}}` + "\n" + `{"image":{"name":"x"}}`)
	f.Add(`{"error":{"kind":"invalid","message":"m"}}`)
	f.Add("\x00\n{}")
	f.Fuzz(func(t *testing.T, s string) {
		e, err := readEvents(strings.NewReader(s), func(dayfly.Progress) {})
		if (err == nil) != (e.Image != nil || e.Images != nil || e.Kernel != nil) {
			t.Errorf("%+v, %v", e, err)
		}
		if err != nil && dayfly.KindOf(err) == "" {
			t.Errorf("an error without a kind: %v", err)
		}
	})
}

func FuzzStream(f *testing.F) {
	f.Add("id: 1\nevent: a\ndata: {\"seq\":1}\n\n: beat\n\ndata: x\ndata: y\n\n")
	f.Add("event: error\ndata: {}\n\n")
	f.Fuzz(func(t *testing.T, s string) {
		n := 0
		for e, err := range readStream(strings.NewReader(s)) {
			if n++; err == nil && (e.data == nil || len(e.data) > len(s)) {
				t.Errorf("%+v", e)
			}
		}
		if n > len(s) {
			t.Errorf("%d events", n)
		}
	})
}
