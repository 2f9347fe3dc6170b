// Package host reads what this Linux host is and judges whether it is a good
// place for machines: how its processors, memory, clocks, control groups and
// limits are set, what that costs, and which command changes it.
//
// It only reads: small files below /proc and /sys, and the size of one file
// system. It changes nothing, starts nothing, and needs no rights; what cannot
// be read is a verdict too. What has to be tried rather than read (a guest on
// KVM, a jail, shared blocks between files) is left to those who own it.
//
// The files are the kernel's, but their form differs between releases, so each
// parser takes any bytes: what it does not understand is as if it were not there.
package host

import (
	"fmt"
	"slices"

	"github.com/dayfly/dayfly"
)

// Host is where to look.
type Host struct {
	Root string // holds proc, sys and dev; empty is the host's own
	Dir  string // the state directory, on the file system that is judged

	// Space measures the file system of a directory; nil asks the kernel.
	Space func(dir string) (Space, error)
}

// Subjects, in the order in which they are shown.
const (
	Processors = "processors"
	Memory     = "memory"
	Starts     = "starts"
	Limits     = "limits"
	Rights     = "rights"
	Storage    = "storage"
)

// guide is the host guide in one table; docs/host.md is its text for people.
var guide = []struct {
	subject, name string
	do            func(Host) dayfly.Check
}{
	{Processors, "smt", Host.smt},
	{Processors, "mitigations", Host.mitigations},
	{Processors, "nested", Host.nested},
	{Processors, "clocksource", Host.clocksource},
	{Processors, "governor", Host.governor},
	{Processors, "cpus", Host.cpus},
	{Memory, "ksm", Host.ksm},
	{Memory, "swap", Host.swap},
	{Memory, "hugepages", Host.hugepages},
	{Memory, "overcommit", Host.overcommit},
	{Starts, "dynmods", Host.dynmods},
	{Starts, "cpusets", Host.cpusets},
	{Starts, "entropy", Host.entropy},
	{Starts, "vsock", Host.vsock},
	{Limits, "pids", Host.pids},
	{Limits, "files", Host.files},
	{Limits, "inotify", Host.inotify},
	{Rights, "ptrace", Host.ptrace},
	{Rights, "userfaultfd", Host.userfaultfd},
	{Storage, "disk", Host.disk},
	{Storage, "filesystem", Host.filesystem},
}

// Names lists the checks in their order. Each has a heading in docs/host.md.
func Names() []string {
	names := make([]string, len(guide))
	for i, row := range guide {
		names[i] = row.name
	}
	return names
}

// Checks judges the host line by line. It takes milliseconds. Any number of
// calls may run at the same time.
func (h Host) Checks() []dayfly.Check {
	if _, err := h.text("proc/self/status"); err != nil {
		return []dayfly.Check{{
			Subject: Processors, Name: "proc", Status: dayfly.Broken,
			Detail: "/proc cannot be read: " + err.Error(), Remedy: "mount -t proc proc /proc",
		}}
	}
	list := make([]dayfly.Check, 0, len(guide))
	for _, row := range guide {
		line := row.do(h)
		line.Subject, line.Name = row.subject, row.name
		list = append(list, line)
	}
	return list
}

func good(format string, args ...any) dayfly.Check {
	return dayfly.Check{Status: dayfly.Good, Detail: fmt.Sprintf(format, args...)}
}

// finding is a verdict that is not good.
type finding struct {
	detail, cost, remedy string
}

func lacking(f finding) dayfly.Check {
	return dayfly.Check{Status: dayfly.Lacking, Detail: f.detail, Cost: f.cost, Remedy: f.remedy}
}

func broken(f finding) dayfly.Check {
	return dayfly.Check{Status: dayfly.Broken, Detail: f.detail, Cost: f.cost, Remedy: f.remedy}
}

// few joins at most three of a list, sorted, and says how many more there are.
func few(list []string) string {
	const most = 3
	list = slices.Sorted(slices.Values(list))
	out := ""
	for i, s := range list {
		if i == most {
			return fmt.Sprintf("%s and %d more", out, len(list)-most)
		}
		if i > 0 {
			out += ", "
		}
		out += s
	}
	return out
}
