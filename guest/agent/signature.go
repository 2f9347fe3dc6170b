package agent

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Why a file request is refused. Clients match these texts.
const (
	textWrongToken       = "access token present in header but does not match"
	textMissingSignature = "missing signature query parameter"
	textInvalidSignature = "invalid signature"
	textExpired          = "signature is already expired"
)

// admitFile lets a file request pass by token or by signature. operation is
// "read" or "write".
func (s *state) admitFile(r *http.Request, query url.Values, operation string, now time.Time) error {
	switch {
	case s.token == "":
		return nil
	case r.Header.Get(tokenHeader) != "":
		if !s.admits(r) {
			return refusal(http.StatusUnauthorized, textWrongToken)
		}
		return nil
	}
	return checkSignature(query, operation, s.token, now)
}

// checkSignature checks the signature first and its expiry next: who forges
// one does not learn whether its time was right.
func checkSignature(query url.Values, operation, token string, now time.Time) error {
	given := query.Get("signature")
	if given == "" {
		return refusal(http.StatusUnauthorized, textMissingSignature)
	}
	var expiry *int64
	if v := query.Get("signature_expiration"); v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return refusal(http.StatusBadRequest, "signature_expiration: use unix seconds")
		}
		expiry = &n
	}
	want := sign(query.Get("path"), operation, query.Get("username"), token, expiry)
	if subtle.ConstantTimeCompare([]byte(given), []byte(want)) != 1 {
		return refusal(http.StatusUnauthorized, textInvalidSignature)
	}
	if expiry != nil && *expiry < now.Unix() {
		return refusal(http.StatusUnauthorized, textExpired)
	}
	return nil
}

// sign makes a version 1 signature: path and user as they stand in the query,
// both empty where they do not.
func sign(path, operation, user, token string, expiry *int64) string {
	text := path + ":" + operation + ":" + user + ":" + token
	if expiry != nil {
		text += ":" + strconv.FormatInt(*expiry, 10)
	}
	sum := sha256.Sum256([]byte(text))
	return "v1_" + base64.RawStdEncoding.EncodeToString(sum[:])
}
