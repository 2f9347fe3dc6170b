package host

import (
	"path"
	"strings"

	"github.com/dayfly/dayfly"
)

// mitigations asks for a processor whose known holes are closed: a guest is
// the attacker for whom most of them were made.
// https://docs.kernel.org/admin-guide/hw-vuln/
func (h Host) mitigations() dayfly.Check {
	files := h.glob("sys/devices/system/cpu/vulnerabilities/*")
	if len(files) == 0 {
		return lacking(finding{detail: "the kernel does not say which holes of the processor are open", remedy: "a kernel from 2018 or newer, with /sys mounted"})
	}
	var open []string
	for _, f := range files {
		if vulnerable(h.word(f)) {
			open = append(open, path.Base(f))
		}
	}
	off := switchedOff(h.word("proc/cmdline"))
	if len(open) == 0 && off == "" {
		return good("closed or absent: %d known holes of processors", len(files))
	}
	f := finding{
		cost:   "a guest may read memory of the host or of another guest",
		remedy: "install the processor's microcode and the newest kernel of the distribution, and reboot",
	}
	switch {
	case len(open) == 0: // off, yet this processor has none of the holes
		f.detail = "switched off by " + off + "; this processor has none of the holes that the kernel knows"
		f.cost = "holes found later stay open"
	case off != "":
		f.detail = "open: " + few(open) + "; switched off by " + off
	default:
		f.detail = "open: " + few(open)
	}
	if off != "" {
		f.remedy = "remove " + off + " from the kernel's command line, and reboot"
	}
	return lacking(f)
}

// vulnerable reads one verdict of the kernel. "Mitigation: …; SMT vulnerable"
// is a matter of smt.
func vulnerable(verdict string) bool {
	verdict = strings.TrimPrefix(verdict, "KVM: ")
	return strings.HasPrefix(verdict, "Vulnerable") || strings.HasPrefix(verdict, "Processor vulnerable")
}

// switchedOff is the first word of a command line that opens holes which this
// host would close by itself. Of mitigations=, the last one counts.
func switchedOff(cmdline string) string {
	found := ""
	for _, w := range strings.Fields(cmdline) {
		switch w {
		case "mitigations=off", "nospectre_v2", "nopti", "pti=off", "spectre_v2=off", "mds=off", "l1tf=off", "kvm-intel.vmentry_l1d_flush=never":
			if found == "" {
				found = w
			}
		default:
			if strings.HasPrefix(w, "mitigations=") && found == "mitigations=off" {
				found = ""
			}
		}
	}
	return found
}
