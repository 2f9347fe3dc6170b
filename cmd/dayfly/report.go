package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

// toStderr is the value of a --json that names no file.
const toStderr = "-"

// runReport is what run --json writes: one object on one line. Times are
// milliseconds since the program began.
type runReport struct {
	Workspace     *dayfly.Workspace `json:"workspace,omitempty"` // with its timeline; absent if it did not start
	ExitCode      int               `json:"exit_code"`
	Signal        int               `json:"signal,omitempty"` // that ended the command
	Error         *dayfly.Error     `json:"error,omitempty"`
	RequestMs     float64           `json:"request_ms"`                // the request to start was sent
	RunningMs     float64           `json:"running_ms,omitempty"`      // its reply came
	StartedMs     float64           `json:"started_ms,omitempty"`      // the command had started
	FirstOutputMs float64           `json:"first_output_ms,omitempty"` // its first output was written
	TotalMs       float64           `json:"total_ms"`                  // everything was taken down
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// deliver prints what --timings and --json ask for.
func (r *oneRun) deliver(exit client.Exit, err error) {
	if r.f.timings {
		_, _ = io.WriteString(r.app.stderr, r.waterfall())
	}
	if r.f.json == "" {
		return
	}
	rep := r.report(exit, err)
	line, _ := json.Marshal(rep) // our own types always marshal
	line = append(line, '\n')
	if r.f.json == toStderr {
		_, _ = r.app.stderr.Write(line)
		return
	}
	if err := os.WriteFile(r.f.json, line, 0o600); err != nil {
		fmt.Fprintf(r.app.stderr, "dayfly: report: %v\n", err)
	}
}

func (r *oneRun) report(exit client.Exit, err error) runReport {
	rep := runReport{
		ExitCode: exit.Code, Signal: exit.Signal,
		RequestMs: ms(r.sentAt), RunningMs: ms(r.repliedAt), StartedMs: ms(r.at.startedAt),
		FirstOutputMs: ms(r.at.firstOutput), TotalMs: ms(time.Since(began)),
	}
	if r.ws.ID != "" {
		rep.Workspace = &r.ws
	}
	if err != nil {
		rep.ExitCode = codeOf(r.cmd, err)
		var e *dayfly.Error
		if !errors.As(err, &e) {
			e = &dayfly.Error{Kind: dayfly.KindOf(err), Msg: err.Error()}
		}
		rep.Error = e
	}
	return rep
}

// waterfall draws where the time went: the server's stages and what this
// process saw, on one clock.
func (r *oneRun) waterfall() string {
	if r.ws.ID == "" {
		return ""
	}
	w := waterfall{}
	w.addStart(r.sentAt, r.ws.Timeline)
	if at := r.at; at.startedAt > 0 {
		w.add("exec", ms(r.repliedAt), ms(at.startedAt-r.repliedAt), 0)
		if at.firstOutput > at.startedAt {
			w.add("first output", ms(at.startedAt), ms(at.firstOutput-at.startedAt), 0)
		}
	}
	tail := ""
	if r.at.firstOutput > 0 {
		tail = fmt.Sprintf("first output after %.0f ms", ms(r.at.firstOutput))
	}
	if r.endedAt > 0 {
		tail += fmt.Sprintf(", command ended after %.0f ms", ms(r.endedAt))
	}
	return heading(r.ws) + "\n" + w.String() + strings.TrimPrefix(tail+fmt.Sprintf(", all ended after %.0f ms", ms(time.Since(began))), ", ") + "\n"
}

// inOrder puts the parts of a stage after it, in order of beginning.
func inOrder(t dayfly.Timeline) dayfly.Timeline {
	parts := map[string]dayfly.Timeline{}
	var out dayfly.Timeline
	for _, st := range t {
		if st.Within != "" {
			parts[st.Within] = append(parts[st.Within], st)
		}
	}
	byBegin := func(a, b dayfly.Stage) int { return cmp.Compare(a.At, b.At) }
	for _, st := range t {
		if st.Within != "" {
			continue
		}
		out = append(out, st)
		slices.SortStableFunc(parts[st.Name], byBegin)
		out = append(out, parts[st.Name]...)
		delete(parts, st.Name)
	}
	for _, st := range t { // parts of a stage that is not there
		if _, orphan := parts[st.Within]; orphan && st.Within != "" {
			out = append(out, st)
		}
	}
	return out
}

// waterfall is a chart of stages: name, begin, length, bar.
type waterfall struct{ rows []waterfallRow }

type waterfallRow struct {
	name     string
	at, took float64 // ms
}

func (w *waterfall) add(name string, at, took float64, depth int) {
	w.rows = append(w.rows, waterfallRow{strings.Repeat("  ", depth) + printable(name), at, took})
}

// printable makes a name safe for a terminal: some come from the guest.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s[:min(len(s), 40)])
}

const barWidth = 40 // cells

func (w *waterfall) String() string {
	var end float64
	width := len("stage")
	for _, r := range w.rows {
		end = max(end, r.at+r.took)
		width = max(width, len(r.name))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "  %-*s %9s %9s\n", width, "stage", "at ms", "took ms")
	for _, r := range w.rows {
		from, cells := 0, 0
		if end > 0 { // times may come from a guest: nothing about them is taken for granted
			from = min(max(0, int(r.at/end*barWidth)), barWidth-1)
			cells = min(max(1, int(r.took/end*barWidth+0.5)), barWidth-from)
		}
		line := fmt.Sprintf("  %-*s %9.1f %9.1f  %s%s", width, r.name, r.at, r.took, strings.Repeat(" ", from), strings.Repeat("━", cells))
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	return b.String()
}
