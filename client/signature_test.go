package client_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
	"github.com/dayfly/dayfly/control/webhook"
)

// sign returns the headers of what a server sends.
func sign(t *testing.T, secret string, at time.Time, body []byte) http.Header {
	t.Helper()
	h := http.Header{}
	if err := webhook.Sign(h, secret, webhook.Message{ID: "evt_1", At: at, Body: body}); err != nil {
		t.Fatal(err)
	}
	return h
}

func TestOnlyTheServersOwnSignatureIsTaken(t *testing.T) {
	t.Parallel()
	const secret = "whsec_c2VjcmV0"
	body := []byte(`{"seq":1}`)
	good := sign(t, secret, time.Now(), body)
	but := func(name, value string) http.Header {
		h := good.Clone()
		h.Set(name, value)
		return h
	}
	signature := good.Get("Webhook-Signature")
	for name, h := range map[string]http.Header{
		"its own": good, "one of several": but("Webhook-Signature", "v1a,xx v1,AAAA "+signature),
	} {
		if err := client.CheckSignature(secret, h, body); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, err := range map[string]error{
		"another body":    client.CheckSignature(secret, good, []byte(`{"seq":2}`)),
		"another secret":  client.CheckSignature("whsec_eA==", good, body),
		"no secret":       client.CheckSignature("", good, body),
		"an empty secret": client.CheckSignature("whsec_", good, body),
		"another id":      client.CheckSignature(secret, but("Webhook-Id", "evt_2"), body),
		"no id":           client.CheckSignature(secret, but("Webhook-Id", ""), body),
		"another time":    client.CheckSignature(secret, but("Webhook-Timestamp", "1"), body),
		"no time":         client.CheckSignature(secret, but("Webhook-Timestamp", ""), body),
		"an old one":      client.CheckSignature(secret, sign(t, secret, time.Now().Add(-time.Hour), body), body),
		"one to come":     client.CheckSignature(secret, sign(t, secret, time.Now().Add(time.Hour), body), body),
		"none":            client.CheckSignature(secret, but("Webhook-Signature", ""), body),
		"nothing at all":  client.CheckSignature(secret, nil, body),
		"half":            client.CheckSignature(secret, but("Webhook-Signature", signature[:len(signature)-2]), body),
		"another scheme":  client.CheckSignature(secret, but("Webhook-Signature", "v1a,"+signature[3:]), body),
	} {
		if dayfly.KindOf(err) != dayfly.Denied {
			t.Errorf("%s: %v", name, err)
		}
	}
}
