package host

import (
	"strconv"
	"strings"

	"github.com/dayfly/dayfly"
)

// What a workspace takes of descriptors, measured with QEMU 10 and rounded up:
// a whole dayfly with one workspace has 19, its QEMU 18 to 30; streams to
// guests come on top.
const (
	serverFiles  = 16 // of the server
	serverBase   = 64 // of a server without workspaces
	machineFiles = 32 // of the VMM
)

// files asks for room for open files: of this process, which raises its own
// limit as far as it may, and of the host.
func (h Host) files() dayfly.Check {
	var list []ceiling
	if hard, ok := hardLimit(h.word("proc/self/limits"), "Max open files"); ok {
		list = append(list, ceiling{"the limit of open files (RLIMIT_NOFILE)", hard, serverBase, serverFiles, h.raiseFiles()})
	}
	if used, most, ok := fileNumbers(h.word("proc/sys/fs/file-nr")); ok {
		list = append(list, ceiling{"fs.file-max", most, used, serverFiles + machineFiles, "sysctl -w fs.file-max=9223372036854775807; for good: a line in /etc/sysctl.d/dayfly.conf"})
	}
	if len(list) == 0 {
		return lacking(finding{detail: "the kernel does not say how many files may be open", remedy: "mount -t proc proc /proc"})
	}
	return h.lowest("open files", list)
}

// raiseFiles is how the limit of a process is raised. None is above fs.nr_open.
func (h Host) raiseFiles() string {
	const enough = 1 << 20 // the kernel's own fs.nr_open
	remedy := "LimitNOFILE=1048576 in the service, or ulimit -n 1048576 before dayfly"
	if most, ok := h.number("proc/sys/fs/nr_open"); ok && most < enough {
		return "sysctl -w fs.nr_open=1048576; then " + remedy
	}
	return remedy
}

// fileNumbers reads file-nr: files in use, 0, files that may be.
func fileNumbers(text string) (used, most int64, ok bool) {
	w := strings.Fields(text)
	if len(w) != 3 {
		return 0, 0, false
	}
	used, err := strconv.ParseInt(w[0], 10, 64)
	if err != nil || used < 0 {
		return 0, 0, false
	}
	most, ok = limit(w[2])
	return used, most, ok
}

// inotify is for those who look for it: what watches files runs in guests, on
// their kernels.
func (h Host) inotify() dayfly.Check {
	instances, ok := h.number("proc/sys/fs/inotify/max_user_instances")
	if !ok {
		return good("not in this kernel, and not needed: guests watch files on kernels of their own")
	}
	return good("%d instances of a user; none is needed: guests watch files on kernels of their own", instances)
}
