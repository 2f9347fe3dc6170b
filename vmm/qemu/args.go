package qemu

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm"
)

// Descriptors that QEMU inherits, in the order of spec.files.
const (
	monitorFD = 3 // one end of a socket pair: no path, nobody else to connect; of an orphan, a listening socket
	agentFD   = 4 // a listening socket: Channel may connect before QEMU is up
	memoryFD  = 5 // only of a machine that has a memory file
	stateFD   = 6 // only of a restored one
)

// tapFD is the first of the TAPs' descriptors, which come behind all others.
func tapFD(c vmm.Config) int {
	switch {
	case c.Memory.File == nil:
		return memoryFD
	case len(c.State) == 0:
		return stateFD
	}
	return stateFD + 1
}

// Names of parts of the machine, for QMP.
const (
	consoleChardev = "console"
	agentChardev   = "agent"
	ramBlock       = "ram" // where it has a memory file
)

// What tells of a command line how its machine has its RAM.
const (
	memoryPath   = "/proc/self/fd/5" // memoryFD
	memoryShared = "share=on"
)

// nameMark begins the -name of every machine of ours, which goes on with the
// id and the directory: what Orphans looks for.
const nameMark = "dayfly:"

// option is one option of the command line; value is "" for a bare flag.
type option struct{ flag, value string }

// arguments is the machine in one table. Nothing in it is secret.
func arguments(c vmm.Config, tscKHz int) []string {
	options := []option{
		{"-name", "guest=" + comma(nameMark+c.ID+":"+c.Dir)},
		{"-nodefaults", ""},
		{"-no-user-config", ""},
		{"-display", "none"},
		// A guest that breaks out of QEMU's devices can then start no program.
		{"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"},

		{"-M", machineType(c, tscKHz)},
		{"-accel", accel(c)},
		{"-cpu", cpuModel(c)},
		{"-smp", strconv.Itoa(c.CPUs)},
		{"-m", strconv.Itoa(c.MemoryMiB) + "M"},

		// qboot is the shortest way from reset to a PVH entry.
		{"-bios", "qboot.rom"},

		{"-chardev", fmt.Sprintf("socket,id=qmp,fd=%d%s", monitorFD, listening(c.Orphan))},
		{"-mon", "chardev=qmp,mode=control"},
		// However the guest ends, QEMU waits with its vCPUs stopped until the
		// console has been read.
		{"-action", "reboot=shutdown,shutdown=pause"},

		// QEMU itself bounds the console, and a guest that floods it costs
		// nobody else anything.
		{"-chardev", fmt.Sprintf("ringbuf,id=%s,size=%d", consoleChardev, vmm.ConsoleBytes)},
		{"-device", "isa-serial,chardev=" + consoleChardev},
		{"-chardev", fmt.Sprintf("socket,id=%s,fd=%d%s", agentChardev, agentFD, listening(true))},
		// Devices take the buses that QEMU gives them, from the highest down,
		// which is also the order in which guests find them.
		{"-device", "virtio-serial-device,max_ports=2"},
		{"-device", fmt.Sprintf("virtserialport,nr=1,chardev=%s,name=%s", agentChardev, vmm.PortName)},
	}
	for i, d := range c.Drives {
		options = append(options, drive(i, d)...)
	}
	for i, n := range c.NICs {
		options = append(options, nic(i, n, tapFD(c)+i)...)
	}
	options = append(options, memory(c)...)
	options = append(options, beginning(c, tscKHz)...)
	return flatten(options)
}

// listening is what a socket needs that QEMU is to accept connections on, one
// at a time.
func listening(yes bool) string {
	if !yes {
		return ""
	}
	return ",server=on,wait=off"
}

// memory is the file that RAM is or begins as. A private mapping of it costs
// only the pages that are written.
func memory(c vmm.Config) []option {
	if c.Memory.File == nil {
		return nil
	}
	how := "share=off,readonly=on,rom=off"
	if c.Memory.Shared {
		how = memoryShared
	}
	return []option{{"-object", fmt.Sprintf("memory-backend-file,id=%s,size=%dM,mem-path=%s,%s", ramBlock, c.MemoryMiB, memoryPath, how)}}
}

// beginning is a kernel to boot, or a saved state to go on from. That holds
// neither the machine's name nor its RAM: see save.
func beginning(c vmm.Config, tscKHz int) []option {
	if len(c.State) > 0 {
		options := []option{
			{"-incoming", fmt.Sprintf("fd:%d", stateFD)},
			{"-global", "migration.send-configuration=off"},
		}
		if len(c.NICs) > 0 { // else it sends frames of its own, in the name of its guest
			options = append(options, option{"-global", "migration.announce-rounds=0"})
		}
		return options
	}
	return []option{
		{"-kernel", c.Kernel},
		{"-initrd", c.Initramfs},
		{"-append", strings.Join(kernelParams(c, tscKHz), " ")},
	}
}

func flatten(options []option) []string {
	var args []string
	for _, o := range options {
		args = append(args, o.flag)
		if o.value != "" {
			args = append(args, o.value)
		}
	}
	return args
}

// machineType has no PCI, and of the old PC's parts only those a kernel waits
// for in vain when they are missing. Without the clock (rtc) Linux looks for it
// for a second. Without the timer (pit) an emulated kernel spends 240 ms on
// calibrating another one; its ticks come by the PIC (pic), and only with ACPI
// there is another way for them. A kernel that is told the rates of both clocks
// needs neither. Under KVM both are parts of the host's kernel.
func machineType(c vmm.Config, tscKHz int) string {
	t := "microvm,isa-serial=off,rtc=on,usb=off,graphics=off,x-option-roms=off,mem-merge=off,dump-guest-core=off,suppress-vmdesc=on"
	if c.Memory.File != nil {
		t += ",memory-backend=" + ramBlock
	}
	switch off := acpiOff(c); {
	case off && c.Accel == dayfly.TCG && knowsTimer(c, tscKHz):
		return t + ",acpi=off,pic=off,pit=off"
	case off && c.Accel == dayfly.TCG:
		return t + ",acpi=off,pic=on,pit=on"
	case off:
		return t + ",acpi=off"
	case c.Accel == dayfly.TCG:
		return t + ",acpi=on,pic=off,pit=on"
	default:
		return t + ",acpi=on"
	}
}

// acpiOff reports whether the kernel finds its devices by its command line,
// where QEMU then puts them; a distribution's kernel only finds them by ACPI.
func acpiOff(c vmm.Config) bool { return slices.Contains(c.Cmdline, "acpi=off") }

// knowsTimer reports whether the kernel is told the rate of the APIC's timer,
// which a tuned kernel can be, and that of the processor's clock.
func knowsTimer(c vmm.Config, tscKHz int) bool {
	return tscKHz > 0 && slices.ContainsFunc(c.Cmdline, func(p string) bool { return strings.HasPrefix(p, "lapic_timer_khz=") })
}

func accel(c vmm.Config) string {
	switch {
	case c.Accel == dayfly.KVM:
		return "kvm"
	case c.CPUs == 1:
		return "tcg,thread=single" + translated
	default:
		return "tcg,thread=multi" + translated
	}
}

// translated bounds the memory for translated code, in MiB. QEMU's own bound is
// 1 GiB, which nobody has counted; when it is full it begins again.
const translated = ",tb-size=256"

// slowStrings are what a processor says of itself that lets kernels and libraries
// copy and clear memory byte by byte, in one instruction. That is its fastest way
// where it is real; the emulator goes byte by byte. Without it they take words.
const slowStrings = ",-erms,-fsrm,-fzrm,-fsrs,-fsrc"

func cpuModel(c vmm.Config) string {
	if c.Accel == dayfly.KVM {
		return "host"
	}
	return "max" + slowStrings
}

// kernelParams ends with the caller's, so that they win.
func kernelParams(c vmm.Config, tscKHz int) []string {
	params := []string{
		// First, so that no boot message is written byte by byte to the console,
		// which is there for the words of a dying kernel.
		"quiet",
		"earlyprintk=serial,ttyS0,115200,keep",
		"8250.nr_uarts=0", // the console needs no driver, and probing for one takes time
		"panic=-1",        // reboot at once
		"reboot=t",        // by triple fault: the one way that needs no device
	}
	if c.Accel == dayfly.TCG {
		params = append(params, emulated(c, tscKHz)...)
	}
	return append(params, c.Cmdline...)
}

// emulated spares the kernel what it would take long to find out, or to do, by
// emulated instructions.
func emulated(c vmm.Config, tscKHz int) (params []string) {
	if tscKHz > 0 {
		params = append(params, fmt.Sprintf("tsc_early_khz=%d", tscKHz), "tsc=reliable", "no_timer_check")
	}
	if c.CPUs > 1 {
		return params // of two CPUs only one would have fine timers without the APIC's
	}
	// Patching the locks out of the kernel takes 100 ms.
	params = append(params, "noreplace-smp")
	if acpiOff(c) && !knowsTimer(c, tscKHz) {
		params = append(params, "nolapic_timer") // calibrating it takes 240 ms, and there is the PIT
	}
	return params
}

// drive is a device over its layers. QEMU locks each against other writers. An
// error of the host's storage, such as a full disk, is the guest's to see: a
// machine that stopped instead would look as if it hung.
func drive(i int, d vmm.Drive) []option {
	top := stack(d)
	top["node-name"] = driveNode(i)
	if len(d.Below) > 0 { // what a merge and the flush after it call by their names
		top["file"].(map[string]any)["node-name"] = fileNode(driveNode(i)) //nolint:forcetypeassert // layer made it
		lowest(top)["node-name"] = layerNode(i, 0)
	}
	device := map[string]any{"driver": "virtio-blk-device", "drive": driveNode(i), "werror": "report", "rerror": "report"}
	return []option{{"-blockdev", jsonText(top)}, {"-device", jsonText(device)}}
}

// nic is a network device whose TAP QEMU has as a descriptor.
func nic(i int, n vmm.NIC, fd int) []option {
	netdev := map[string]any{"type": "tap", "id": nicID(i), "fd": strconv.Itoa(fd), "vhost": false}
	device := map[string]any{"driver": "virtio-net-device", "netdev": nicID(i), "mac": n.MAC}
	return []option{{"-netdev", jsonText(netdev)}, {"-device", jsonText(device)}}
}

func nicID(i int) string { return "nic" + strconv.Itoa(i) }

func driveNode(i int) string { return "drive" + strconv.Itoa(i) }

// stack is the block node of a drive: its uppermost layer, over the others.
func stack(d vmm.Drive) map[string]any {
	node := layer(d.Path, d.ReadOnly, len(d.Below) > 0)
	if len(d.Below) > 0 {
		node["backing"] = stack(vmm.Drive{Path: d.Below[0], Below: d.Below[1:], ReadOnly: true})
	}
	return node
}

// lowest is the node that lies over nothing.
func lowest(node map[string]any) map[string]any {
	for {
		below, ok := node["backing"].(map[string]any)
		if !ok {
			return node
		}
		node = below
	}
}

// layer is the block node of one file.
func layer(path string, readOnly, qcow2 bool) map[string]any {
	format := "raw"
	if qcow2 {
		format = "qcow2"
	}
	node := map[string]any{"driver": format, "read-only": readOnly, "file": file(path, readOnly)}
	if !readOnly {
		node["discard"] = "unmap"
	}
	return node
}

func file(path string, readOnly bool) map[string]any {
	f := map[string]any{
		"driver": "file", "filename": path, "aio": "threads", "locking": "on", "read-only": readOnly,
		"cache": map[string]bool{"direct": false, "no-flush": false},
	}
	if !readOnly {
		f["discard"] = "unmap"
	}
	return f
}

func jsonText(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // maps of strings and booleans always marshal
	}
	return string(b)
}

// comma keeps a value from ending at a comma in it.
func comma(s string) string { return strings.ReplaceAll(s, ",", ",,") }
