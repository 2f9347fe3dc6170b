package store

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"

	"github.com/dayfly/dayfly"
)

// cursor is the place of the last record of a page. The next one begins behind
// it, whatever has come and gone.
type cursor struct {
	Order   dayfly.Order `json:"o"`
	ID      string       `json:"i"`
	Created int64        `json:"c,omitempty"` // microseconds, of the orders by age
	Name    string       `json:"n,omitempty"` // of the order by name
	Renames int64        `json:"r,omitempty"` // likewise: as of which the names are
}

// cursorSum is how many bytes of a digest lead a cursor. They tell a mistake from
// a cursor; one that is forged on purpose shows nobody more than its query does.
const cursorSum = 6

// maxCursor bounds a cursor's text: the longest name, escaped in JSON.
const maxCursor = 4096

func (c cursor) encode() (string, error) {
	text, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return base64.RawURLEncoding.EncodeToString(append(sum[:cursorSum:cursorSum], text...)), nil
}

func decodeCursor(text string, order dayfly.Order) (cursor, error) {
	var c cursor
	invalid := dayfly.Errorf(dayfly.Invalid, "the cursor is not one of this list: use what the page before has as next, with the same order")
	if len(text) > maxCursor {
		return c, invalid
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(raw) < cursorSum {
		return c, invalid
	}
	if err := json.Unmarshal(raw[cursorSum:], &c); err != nil {
		return cursor{}, invalid
	}
	// There is one text for each place.
	if again, err := c.encode(); err != nil || again != text || c.Order != order {
		return cursor{}, invalid
	}
	return c, nil
}
