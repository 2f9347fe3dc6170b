package qemu

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"

	"github.com/dayfly/dayfly/vmm"
)

// ours knows machines of ours by their first option, -name.
var ours vmm.Orphans = func(cmdline []byte) (string, bool) {
	_, dir, ok := machineName(cmdline)
	return dir, ok
}

// Orphans lists the QEMU processes of ours, whoever launched them, whose
// machine's directory is dir or below it, by process id. Call it only where no
// living owner can have machines.
func Orphans(ctx context.Context, dir string) ([]int, error) { return ours.List(ctx, dir) }

// KillOrphans kills what Orphans lists and waits until it is gone.
func KillOrphans(ctx context.Context, dir string) error { return ours.KillAll(ctx, dir) }

// machineName is the id and the directory in the -name of a machine of ours,
// which is the first option on its command line.
func machineName(cmdline []byte) (id, dir string, ok bool) {
	args := bytes.SplitN(cmdline, []byte{0}, 4)
	if len(args) < 4 || string(args[1]) != "-name" {
		return "", "", false
	}
	name, ok := strings.CutPrefix(string(args[2]), "guest="+nameMark)
	if !ok {
		return "", "", false
	}
	id, dir, ok = strings.Cut(strings.ReplaceAll(name, ",,", ","), ":")
	return id, dir, ok && filepath.IsAbs(dir)
}
