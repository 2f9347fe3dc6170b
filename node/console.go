package node

import (
	"fmt"
	"strings"

	"github.com/dayfly/dayfly/vmm"
)

const (
	consoleHead  = "last lines of its console:"
	consoleLines = 12
	consoleWidth = 160
)

// consoleTail returns the last lines of a guest's console, with everything that
// could act on a terminal taken out, indented; "" where there are none.
func consoleTail(m vmm.Machine) string {
	var lines []string
	for l := range strings.SplitSeq(string(m.Console()), "\n") {
		if l = strings.TrimSpace(plain(l)); l != "" {
			lines = append(lines, "  "+l[:min(len(l), consoleWidth)])
		}
	}
	return strings.Join(lines[max(0, len(lines)-consoleLines):], "\n")
}

func consoleNote(m vmm.Machine) string {
	tail := consoleTail(m)
	if tail == "" {
		return "; the guest wrote nothing to its console"
	}
	return fmt.Sprintf("; %s\n%s", consoleHead, tail)
}

// plain keeps the printable ASCII of a line.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, s)
}
