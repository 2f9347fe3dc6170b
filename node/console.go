package node

import (
	"fmt"
	"strings"

	"github.com/dayfly/dayfly/vmm"
)

const (
	consoleHead  = "last lines of its console:"
	panicMark    = "Kernel panic - not syncing" // kernel/panic.c
	consoleLines = 12
	consoleWidth = 160
)

// consoleTail returns the last lines of a guest's console, or those around its
// kernel's panic, with everything that could act on a terminal taken out,
// indented; "" where there are none.
func consoleTail(m vmm.Machine) string {
	var lines []string
	last := 0
	for l := range strings.SplitSeq(string(m.Console()), "\n") {
		if l = strings.TrimSpace(plain(l)); l == "" {
			continue
		}
		lines = append(lines, "  "+l[:min(len(l), consoleWidth)])
		if last == 0 && strings.Contains(l, panicMark) {
			last = len(lines) + consoleLines/2
		}
	}
	if last == 0 || last > len(lines) {
		last = len(lines)
	}
	return strings.Join(lines[max(0, last-consoleLines):last], "\n")
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
