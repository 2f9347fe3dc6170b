package main

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/dayfly/dayfly"
)

// mark is how a verdict is shown.
type mark struct {
	sign   string
	colour string // of a terminal, an SGR parameter
	words  string // of the last line
}

var marks = map[dayfly.Status]mark{
	dayfly.Good:    {"✓", "32", "good"},
	dayfly.Lacking: {"!", "33", "usable with a drawback"},
	dayfly.Broken:  {"✗", "31", "broken"},
}

// verdicts prints checks for people: grouped by subject, in columns.
type verdicts struct {
	colours bool
}

// newVerdicts colours on a terminal alone, and not if NO_COLOR is set
// (no-color.org).
func newVerdicts(w io.Writer, lookup func(string) (string, bool)) verdicts {
	f, ok := file(w)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return verdicts{}
	}
	no, _ := lookup("NO_COLOR")
	return verdicts{colours: no == ""}
}

func (v verdicts) print(w io.Writer, checks []dayfly.Check) error {
	var b strings.Builder
	width := 0
	for _, c := range checks {
		width = max(width, utf8.RuneCountInString(oneLine(c.Name)))
	}
	for i, subject := range subjects(checks) {
		if i > 0 {
			b.WriteString("\n")
		}
		if subject != "" {
			b.WriteString(v.paint("1", oneLine(subject)) + "\n")
		}
		for _, c := range checks {
			if c.Subject == subject {
				v.line(&b, c, width)
			}
		}
	}
	if len(checks) > 0 {
		b.WriteString("\n" + tally(checks) + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// line writes one check; width is that of the longest name.
func (v verdicts) line(b *strings.Builder, c dayfly.Check, width int) {
	m, ok := marks[c.Status]
	if !ok { // of a newer server
		m = mark{sign: "?", colour: "33"}
	}
	fmt.Fprintf(b, "%s %-*s   %s\n", v.paint(m.colour, m.sign), width, oneLine(c.Name), oneLine(c.Detail))
	indent := strings.Repeat(" ", width+5)
	if c.Cost != "" {
		b.WriteString(indent + "costs: " + oneLine(c.Cost) + "\n")
	}
	if c.Remedy != "" {
		b.WriteString(indent + "→ " + oneLine(c.Remedy) + "\n")
	}
}

func (v verdicts) paint(sgr, s string) string {
	if !v.colours {
		return s
	}
	return "\x1b[" + sgr + "m" + s + "\x1b[0m"
}

// subjects lists each subject once, in the order in which they come.
func subjects(checks []dayfly.Check) []string {
	var list []string
	seen := map[string]bool{}
	for _, c := range checks {
		if !seen[c.Subject] {
			seen[c.Subject] = true
			list = append(list, c.Subject)
		}
	}
	return list
}

// tally is the last line, such as "20 good, 3 usable with a drawback, 0 broken".
func tally(checks []dayfly.Check) string {
	n := map[dayfly.Status]int{}
	for _, c := range checks {
		n[c.Status]++
	}
	var parts []string
	for _, s := range []dayfly.Status{dayfly.Good, dayfly.Lacking, dayfly.Broken} {
		parts = append(parts, fmt.Sprintf("%d %s", n[s], marks[s].words))
	}
	return strings.Join(parts, ", ")
}
