package webhook

import (
	"errors"
	"maps"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/dayfly/dayfly"
)

func TestAddressesThatAreNeverReached(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]struct{ open, private error }{
		"169.254.169.254:80":          {errForbidden, errForbidden},
		"[fe80::1%eth0]:80":           {errForbidden, errForbidden},
		"[::ffff:169.254.169.254]:80": {errForbidden, errForbidden},
		"[64:ff9b::a9fe:a9fe]:80":     {errForbidden, errForbidden},
		"[::a9fe:a9fe]:80":            {errForbidden, errForbidden},
		"[fd00:ec2::254]:80":          {errForbidden, errForbidden},
		"0.0.0.0:80":                  {errForbidden, errForbidden},
		"[::]:80":                     {errForbidden, errForbidden},
		"224.0.0.1:80":                {errForbidden, errForbidden},
		"127.0.0.1:80":                {errPrivate, nil},
		"[::1]:80":                    {errPrivate, nil},
		"[::ffff:10.0.0.1]:80":        {errPrivate, nil},
		"10.1.2.3:443":                {errPrivate, nil},
		"172.31.0.1:443":              {errPrivate, nil},
		"192.168.1.1:443":             {errPrivate, nil},
		"100.64.0.1:443":              {errPrivate, nil},
		"[fd12::1]:443":               {errPrivate, nil},
		"93.184.216.34:443":           {nil, nil},
		"[2606:2800:220:1::1]:443":    {nil, nil},
	} {
		if err := mayReach(address, false); !errors.Is(err, want.open) {
			t.Errorf("%s: %v", address, err)
		}
		if err := mayReach(address, true); !errors.Is(err, want.private) {
			t.Errorf("%s where private ones are allowed: %v", address, err)
		}
	}
	if mayReach("nonsense", true) == nil {
		t.Error("what is no address is reached")
	}
}

func TestAttemptsBackOffAndEndAfterADay(t *testing.T) {
	t.Parallel()
	began := time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	d := dayfly.Delivery{Event: dayfly.Event{At: began}}
	at, pauses := began, []time.Duration{}
	for range 1000 {
		d = after(d, at, 500, errors.New("the receiver answered 500"))
		if d.NextAt == nil {
			break
		}
		pauses = append(pauses, d.NextAt.Sub(at))
		at = *d.NextAt
	}
	if pauses[0] != time.Second || pauses[1] != 2*time.Second || pauses[12] != time.Hour || d.NextAt != nil || d.DoneAt != nil {
		t.Fatalf("%v, then %+v", pauses, d)
	}
	if last := at.Sub(began); last < 22*time.Hour || last > 24*time.Hour {
		t.Errorf("given up after %s", last)
	}
	if d = after(d, at, 204, nil); d.DoneAt == nil || d.Error != "" || d.Status != 204 {
		t.Errorf("%+v", d)
	}
}

// TestSignatureIsThatOfStandardWebhooks: an example of its authors' libraries.
func TestSignatureIsThatOfStandardWebhooks(t *testing.T) {
	t.Parallel()
	h := http.Header{}
	err := Sign(h, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", Message{
		ID: "msg_p5jXN8AQM9LWM0D4loKWxJek", At: time.Unix(1614265330, 0), Body: []byte(`{"test": 2432232314}`),
	})
	want := http.Header{
		"Webhook-Id": {"msg_p5jXN8AQM9LWM0D4loKWxJek"}, "Webhook-Timestamp": {"1614265330"},
		"Webhook-Signature": {"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="},
	}
	if err != nil || !maps.EqualFunc(h, want, slices.Equal) {
		t.Errorf("%v, %v", h, err)
	}
	for _, none := range []string{"", "whsec_", "whsec_example"} {
		if err := Sign(http.Header{}, none, Message{}); err == nil {
			t.Errorf("%q signs", none)
		}
	}
}
