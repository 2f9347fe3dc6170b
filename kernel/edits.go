package kernel

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// edit is one change to the kernel's source: old, which must be there exactly
// once, becomes new. It is optional: where it does not fit, as in a later
// release, the kernel is compiled without it.
type edit struct {
	file, old, new string
	param          string // kernel parameter that makes use of it, if it takes one
}

// edits is every line of Linux that we change: what costs a boot under
// emulation much and cannot be configured. What is inserted is, like the files
// it goes into, under GPL-2.0-only.
var edits = []edit{
	{
		// Without it Linux measures the APIC's timer for 100 ms, and for another
		// 100 ms against the PIT, or does without that timer. QEMU's and
		// KVM's timer counts nanoseconds. About 30 ms with one CPU, and 300 ms of 830
		// with two, which cannot do without that timer.
		file: "arch/x86/kernel/apic/apic.c",
		old:  "unsigned int lapic_timer_period = 0;\n",
		new: `unsigned int lapic_timer_period = 0;

/* lapic_timer_khz=: the rate of a virtual APIC's timer, which then needs no calibration. */
static int __init setup_lapic_timer_khz(char *arg)
{
	unsigned int khz;

	if (!arg || kstrtouint(arg, 10, &khz))
		return -EINVAL;
	lapic_timer_period = (u64)khz * 1000 / HZ;
	return 0;
}
early_param("lapic_timer_khz", setup_lapic_timer_khz);
`,
		param: "lapic_timer_khz=1000000",
	},
	{
		// Overwriting the memory that start-up code leaves makes an emulator drop
		// the translations of it one store at a time: 28 ms.
		file: "arch/x86/mm/init.c",
		old:  "free_reserved_area((void *)begin, (void *)end,\n\t\t\t\t   POISON_FREE_INITMEM, what);",
		new:  "free_reserved_area((void *)begin, (void *)end,\n\t\t\t\t   -1 /* no overwriting */, what);",
	},
}

// applyEdits changes the source in dir, and returns the parameters that the
// kernel understands from then on.
func applyEdits(dir string, log io.Writer) (params []string, err error) {
	for _, e := range edits {
		done, err := e.apply(dir)
		if err != nil {
			return nil, err
		}
		if !done {
			fmt.Fprintf(log, "our edit of %s does not fit this source: left out\n", e.file)
		} else if e.param != "" {
			params = append(params, e.param)
		}
	}
	return params, nil
}

func (e edit) apply(dir string) (done bool, err error) {
	path := filepath.Join(dir, e.file)
	text, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return false, nil
	}
	if err != nil || strings.Count(string(text), e.old) != 1 {
		return false, err
	}
	return true, os.WriteFile(path, []byte(strings.Replace(string(text), e.old, e.new, 1)), 0o600)
}
