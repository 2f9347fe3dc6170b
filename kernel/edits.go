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
	{
		// Whoever is given that memory next overwrites it all the same. 310 KiB of it
		// are code: each store there costs an emulator a walk through its list of a page's
		// translations, 300 ms in all of a start on a machine that boots in 500.
		file: "arch/x86/mm/init.c",
		old:  "free_kernel_image_pages(\"unused kernel image (initmem)\",\n\t\t\t\t&__init_begin, &__init_end);",
		new: "/* all but the code, which is left alone */\n" +
			"\tfree_kernel_image_pages(\"unused kernel image (initmem)\", &__init_begin,\n" +
			"\t\t\t\t(void *)((unsigned long)_sinittext & PAGE_MASK));\n" +
			"\tfree_kernel_image_pages(\"unused kernel image (initmem)\",\n" +
			"\t\t\t\t(void *)PAGE_ALIGN((unsigned long)_einittext), &__init_end);",
	},
	{
		// An exception from user space leaves no stack segment loaded, a system call
		// leaves ours. An emulator keeps code translated for the one apart from that
		// for the other: without this 3,900 of the 89,000 blocks of a cold start, and
		// 4,400 of the 42,000 of a restore, are translated twice.
		file: "arch/x86/entry/entry_64.S",
		old:  "\tUNTRAIN_RET_FROM_CALL\n\n\tleaq\t8(%rsp), %rdi\t\t\t/* arg0 = pt_regs pointer */\n\t/* Put us onto",
		new: "\tUNTRAIN_RET_FROM_CALL\n\n\tmovl\t$__KERNEL_DS, %eax\t\t/* as after a system call */\n\tmovl\t%eax, %ss\n\n" +
			"\tleaq\t8(%rsp), %rdi\t\t\t/* arg0 = pt_regs pointer */\n\t/* Put us onto",
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
