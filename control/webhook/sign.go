package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The headers of Standard Webhooks (standardwebhooks.com), which receivers have
// libraries for.
const (
	headerID        = "Webhook-Id"
	headerTime      = "Webhook-Timestamp"
	headerSignature = "Webhook-Signature"
)

// SecretPrefix begins every secret. What follows is the key in base64.
const SecretPrefix = "whsec_"

// Message is what is signed.
type Message struct {
	ID   string // the same each time that it is sent
	At   time.Time
	Body []byte
}

var errSecret = errors.New("its secret is none: make another webhook")

// Sign sets the headers that a receiver checks: the message's id, the time in Unix
// seconds, and "v1," with the HMAC-SHA256 of both and the body, in base64.
func Sign(h http.Header, secret string, m Message) error {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, SecretPrefix))
	if err != nil || len(key) == 0 {
		return errSecret
	}
	at := strconv.FormatInt(m.At.Unix(), 10)
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(m.ID + "." + at + "."))
	mac.Write(m.Body)
	h.Set(headerID, m.ID)
	h.Set(headerTime, at)
	h.Set(headerSignature, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	return nil
}
