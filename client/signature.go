package client

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/dayfly/dayfly"
)

// signatureLife is how old a signature may be, and how far clocks may differ.
const signatureLife = 5 * time.Minute

// CheckSignature returns nil if what came to a webhook was sent by the server
// just now: secret is that of the webhook, h the headers and body the body as
// they came. Anything else is a Denied error. An event may come twice; its
// Webhook-Id is then the same. The form is that of Standard Webhooks.
func CheckSignature(secret string, h http.Header, body []byte) error {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil || len(key) == 0 {
		return dayfly.Errorf(dayfly.Denied, "webhook: the secret is none: it has the form whsec_BASE64")
	}
	id, at := h.Get("Webhook-Id"), h.Get("Webhook-Timestamp")
	seconds, err := strconv.ParseInt(at, 10, 64)
	if err != nil || id == "" {
		return dayfly.Errorf(dayfly.Denied, "webhook: the headers Webhook-Id and Webhook-Timestamp are missing, or are none")
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(id + "." + at + "."))
	mac.Write(body)
	if !signed(h.Get("Webhook-Signature"), mac.Sum(nil)) {
		return dayfly.Errorf(dayfly.Denied, "webhook: there is no signature of this secret and body")
	}
	if age := time.Since(time.Unix(seconds, 0)); age.Abs() > signatureLife {
		return dayfly.Errorf(dayfly.Denied, "webhook: the signature is %s old: check the clock, or somebody sends it again", age.Round(time.Second))
	}
	return nil
}

// signed reports whether one of the signatures in a header is the right one. There
// are several where a secret is being replaced, or another scheme is sent too.
func signed(header string, want []byte) bool {
	found := false
	for one := range strings.FieldsSeq(header) {
		text, ok := strings.CutPrefix(one, "v1,")
		sent, err := base64.StdEncoding.DecodeString(text)
		found = ok && err == nil && hmac.Equal(sent, want) || found
	}
	return found
}
