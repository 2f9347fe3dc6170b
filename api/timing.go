package api

import (
	"strconv"
	"strings"

	"github.com/dayfly/dayfly"
)

// Parts of a timeline come from the guest's own report, so their names and
// number are bounded before they become a header.
const (
	maxTimings    = 64
	maxTimingName = 48
)

// serverTiming renders how a workspace started as the value of a Server-Timing
// header: stages by name, parts of a stage as stage.part, the total and the
// start kind. It is a valid header value whatever the names hold.
func serverTiming(ws dayfly.Workspace) string {
	var b strings.Builder
	for i, st := range ws.Timeline {
		if i == maxTimings {
			break
		}
		name := st.Name
		if st.Within != "" {
			name = st.Within + "." + name
		}
		b.WriteString(token(name) + ";dur=" + millis(st.Took) + ", ")
	}
	b.WriteString("total;dur=" + millis(ws.Timeline.Total()))
	if ws.StartKind != "" {
		b.WriteString(`, start_kind;desc="` + token(string(ws.StartKind)) + `"`)
	}
	return b.String()
}

func millis(ms float64) string { return strconv.FormatFloat(ms, 'f', 1, 64) }

// token makes s a token of HTTP (RFC 9110, 5.6.2), a subset of them.
func token(s string) string {
	s = s[:min(len(s), maxTimingName)]
	s = strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', strings.ContainsRune("-_.", r):
			return r
		}
		return '_'
	}, s)
	if s == "" {
		return "_"
	}
	return s
}
