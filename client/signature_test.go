package client_test

import (
	"testing"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
	"github.com/dayfly/dayfly/control/webhook"
)

func TestOnlyTheServersOwnSignatureIsTaken(t *testing.T) {
	t.Parallel()
	const secret = "whsec_c2VjcmV0"
	body := []byte(`{"seq":1}`)
	good := webhook.Sign(secret, time.Now(), body)
	if err := client.CheckSignature(secret, good, body); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"another body":   client.CheckSignature(secret, good, []byte(`{"seq":2}`)),
		"another secret": client.CheckSignature("whsec_eA==", good, body),
		"no secret":      client.CheckSignature("", webhook.Sign("", time.Now(), body), body),
		"an old one":     client.CheckSignature(secret, webhook.Sign(secret, time.Now().Add(-time.Hour), body), body),
		"one to come":    client.CheckSignature(secret, webhook.Sign(secret, time.Now().Add(time.Hour), body), body),
		"none":           client.CheckSignature(secret, "", body),
		"half":           client.CheckSignature(secret, good[:len(good)-2], body),
	} {
		if dayfly.KindOf(err) != dayfly.Denied {
			t.Errorf("%s: %v", name, err)
		}
	}
}
