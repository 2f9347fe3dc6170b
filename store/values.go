package store

import (
	"database/sql"
	"encoding/json"
	"strconv"
	"time"
)

// exact is t as it is stored: UTC, microseconds, without a monotonic reading.
func exact(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

func exactPtr(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	e := exact(*t)
	return &e
}

func micros(t time.Time) int64 { return t.UnixMicro() }

func microsPtr(t *time.Time) any {
	if t == nil {
		return nil
	}
	return micros(*t)
}

func instant(us int64) time.Time { return time.UnixMicro(us).UTC() }

func instantPtr(us sql.NullInt64) *time.Time {
	if !us.Valid {
		return nil
	}
	t := instant(us.Int64)
	return &t
}

func bit(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// document is v as it is stored.
func document(v any) (string, error) {
	text, err := json.Marshal(v)
	return string(text), err
}
