package host

import (
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/dayfly/dayfly"
)

// area is a line of /proc/swaps.
type area struct {
	name string
	kib  int64
}

// swaps reads /proc/swaps: a heading, then name, type, size, used and priority.
func swaps(text string) []area {
	var list []area
	for line := range strings.Lines(text) {
		w := strings.Fields(line)
		if len(w) < 4 || !strings.HasPrefix(w[0], "/") {
			continue
		}
		n, err := strconv.ParseInt(w[2], 10, 64)
		if err != nil || n < 0 {
			continue
		}
		list = append(list, area{w[0], n})
	}
	return list
}

// swap asks that what a guest has in memory never gets to a disk in the clear:
// the disks of workspaces are encrypted, the host's swap seldom is.
func (h Host) swap() dayfly.Check {
	list := swaps(h.word("proc/swaps"))
	if len(list) == 0 {
		return good("none")
	}
	var clear []string
	var size int64
	for _, a := range list {
		if !h.safeSwap(a.name) {
			clear = append(clear, a.name)
			size += a.kib
		}
	}
	if len(clear) == 0 {
		return good("in memory or encrypted")
	}
	return lacking(finding{
		detail: fmt.Sprintf("%s, %d MiB, not encrypted as far as can be told", few(clear), size>>10),
		cost:   "memory of guests may get to a disk in the clear, and a page that is swapped out takes a disk's time instead of 0.1 µs",
		remedy: "swapoff -a, and remove it from /etc/fstab; or encrypt it, with a random key at each boot: crypttab(5), option swap",
	})
}

// safeSwap says whether an area is in memory (zram) or a volume of dm-crypt.
func (h Host) safeSwap(name string) bool {
	base := path.Base(name)
	if strings.HasPrefix(base, "zram") {
		return true
	}
	return strings.HasPrefix(h.word("sys/block/"+base+"/dm/uuid"), "CRYPT-")
}
