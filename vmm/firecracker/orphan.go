package firecracker

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"

	"github.com/dayfly/dayfly/vmm"
)

// nameMark begins the argv[0] of every machine of ours, which goes on with the
// id and the directory: what Orphans looks for.
const nameMark = "firecracker:dayfly:"

func processName(c vmm.Config) string { return nameMark + c.ID + ":" + c.Dir }

// ours knows machines of ours by their name.
var ours vmm.Orphans = func(cmdline []byte) (string, bool) { return machineDir(nameIn(cmdline)) }

// Orphans lists the Firecracker processes of ours, whoever launched them, whose
// machine's directory is dir or below it, by process id. Call it only where no
// living owner can have machines.
func Orphans(ctx context.Context, dir string) ([]int, error) { return ours.List(ctx, dir) }

// KillOrphans kills what Orphans lists and waits until it is gone.
func KillOrphans(ctx context.Context, dir string) error { return ours.KillAll(ctx, dir) }

// processOf is the argv[0] of a process, or nothing.
func processOf(pid int) string {
	line, err := vmm.CommandLine(pid)
	if err != nil {
		return "" // gone meanwhile
	}
	return nameIn(line)
}

func nameIn(cmdline []byte) string {
	first, _, whole := bytes.Cut(cmdline, []byte{0})
	if !whole {
		return ""
	}
	return string(first)
}

// machineDir is the directory in the name of a machine's process.
func machineDir(name string) (string, bool) {
	rest, ok := strings.CutPrefix(name, nameMark)
	if !ok {
		return "", false
	}
	_, dir, ok := strings.Cut(rest, ":")
	return dir, ok && filepath.IsAbs(dir)
}
