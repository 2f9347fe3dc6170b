package client

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"time"

	"github.com/dayfly/dayfly"
)

// signatureLife is how old a signature may be, and how far clocks may differ.
const signatureLife = 5 * time.Minute

// CheckSignature returns nil if what came to a webhook was sent by the server
// just now: header is Dayfly-Signature, body the body as it came, secret that of
// the webhook. Anything else is a Denied error. An event may come twice; its
// Dayfly-Event-Id is then the same.
func CheckSignature(secret, header string, body []byte) error {
	at, rest, ok := strings.Cut(strings.TrimPrefix(header, "t="), ",v1=")
	seconds, err := strconv.ParseInt(at, 10, 64)
	sent, hexErr := hex.DecodeString(rest)
	if !ok || err != nil || hexErr != nil || secret == "" {
		return dayfly.Errorf(dayfly.Denied, "webhook: the signature is none: it has the form t=SECONDS,v1=HEX")
	}
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(at + "."))
	mac.Write(body)
	if !hmac.Equal(mac.Sum(nil), sent) {
		return dayfly.Errorf(dayfly.Denied, "webhook: the signature is of another secret or body")
	}
	if age := time.Since(time.Unix(seconds, 0)); age.Abs() > signatureLife {
		return dayfly.Errorf(dayfly.Denied, "webhook: the signature is %s old: check the clock, or somebody sends it again", age.Round(time.Second))
	}
	return nil
}
