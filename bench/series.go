package main

import (
	"fmt"
	"slices"
	"strconv"
)

// series is a row of the report.
type series struct{ name, unit, what string }

// sizes are the guests, in MiB of RAM, that are paused and photographed. In each
// one process has the same amount of it in use.
var sizes = []int{256, 512, 1 << 10, 4 << 10, 8 << 10}

// crowds are how many clones run at once while their memory is measured.
var crowds = []int{1, 10, 30}

// allSeries is every row that there may be, in order.
var allSeries = slices.Concat([]series{
	{"run", "ms", "dayfly run --cold: exec of the command → first output of echo in a new workspace"},
	{"run200", "ms", "the same with a disk of 200 GiB instead of 2"},
	{"restore", "ms", "dayfly run, no server, of an image and disk size that have a template"},
	{"restore-any", "ms", "the same with a disk size that no template was made for: from the base template"},
	{"restore200", "ms", "as restore, with a disk of 200 GiB instead of 2"},
	{"jail-on", "ms", "dayfly run, by a server without standby machines, whose jails wait"},
	{"jail-off", "ms", "the same, by a server that has no jails"},
	{"launch-jail", "ms", "that part of them alone: the wish for a VMM, in a jail that waits → its CPUs run"},
	{"launch-bare", "ms", "the same without a jail"},
	{"claim", "ms", "dayfly run, by a server with standby machines, as what was started last"},
	{"claim-any", "ms", "the same, but not as what was started last: an empty standby machine"},
	{"bare", "ms", "reference: the same VMM and kernel to a pid 1 that powers off at once"},
	{"container", "ms", "reference: new namespaces and a chroot into the same root, first output of echo"},
}, sized(), []series{
	{"fork1", "ms", "fork into 1: request → first output of echo in the child"},
	{"fork10", "ms", "fork into 10 at once: request → first output of echo in the slowest child"},
}, crowded(), []series{
	{"api", "ms", "creation by a server with 10,000 records: all but the stages of the start"},
	{"api.start", "ms", "the stages of those starts"},
	{"list", "ms", "a page of 100 of 10,000 workspaces"},
}, flying(), near())

func near() (list []series) {
	for _, kind := range []struct{ name, what string }{
		{"near-echo", "request → end of echo in a workspace"},
		{"near-cpu", "the same of a fixed amount of computing"},
		{"near-write", "the same of 16 MiB written to its disk"},
	} {
		for _, b := range besides {
			list = append(list, series{nearName(kind.name, b.name), "ms", kind.what + ", " + b.what})
		}
	}
	for _, b := range besides {
		if b.count > 0 {
			list = append(list, series{nearName("limit-cpu", b.name), "CPU", fmt.Sprintf("processors that each of those had that have --cpus %g", b.limit)})
		}
	}
	return append(list, series{"limit-io", "×", "what a jailed program that writes without end had of its limit of bytes a second"})
}

func flying() (list []series) {
	for _, n := range flights {
		list = append(list, series{flightName("create", n), "ms", fmt.Sprintf("creation, %d at once: all sent → this one answered", n)})
	}
	for _, n := range flights {
		list = append(list, series{flightName("rate", n), "/s", fmt.Sprintf("creations a second, %d at once", n)})
	}
	return list
}

func sized() (list []series) {
	for _, kind := range []struct{ name, what string }{
		{"resume", "resume: request → the API answers that it runs"},
		{"resume-exec", "the same request → first output of echo after it"},
		{"snapshot-stood", "snapshot: how long the workspace stood still for it, as the API says"},
		{"snapshot", "snapshot: request → the API answers"},
		{"pause", "pause: request → the API answers, all is on the disk"},
	} {
		for _, mib := range sizes {
			list = append(list, series{sizedName(kind.name, mib), "ms", fmt.Sprintf("%s; %d MiB", kind.what, mib)})
		}
	}
	return list
}

func sizedName(kind string, mib int) string { return kind + "." + strconv.Itoa(mib) }

func crowded() (list []series) {
	for _, kind := range []struct{ name, what string }{
		{"pss.restore", "PSS of the VMM of each of so many idle workspaces restored from one template"},
		{"over.restore", "the same without the guest pages that the workspace has written itself"},
		{"pss.fork", "PSS of the VMM of each of so many idle forks of a workspace with a Python process"},
		{"over.fork", "the same without the guest pages that the fork has written itself"},
	} {
		for _, n := range crowds {
			list = append(list, series{crowdName(kind.name, n), "MiB", kind.what})
		}
	}
	return list
}

func crowdName(kind string, n int) string { return kind + strconv.Itoa(n) }

// named returns a kind's series of all sizes.
func named(kinds ...string) (names []string) {
	for _, kind := range kinds {
		for _, mib := range sizes {
			names = append(names, sizedName(kind, mib))
		}
	}
	return names
}

func unitOf(name string) string {
	i := slices.IndexFunc(allSeries, func(s series) bool { return s.name == name })
	if i < 0 {
		panic("no series " + name)
	}
	return allSeries[i].unit
}
