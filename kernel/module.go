package kernel

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// wanted names the modules a guest needs to reach its agent, disks and root.
// What a kernel has built in is left out by itself. The order is the order of
// loading: devices first, so that they settle while the rest is loaded.
var wanted = []string{
	"virtio_mmio",                // finds the devices
	"virtio_blk",                 // root and disk
	"virtio_console",             // the channel to the agent,
	"vmw_vsock_virtio_transport", // or another one: the agent loads what is called vsock only where it is that
	"ext4",                       // both file systems
	"overlay",                    // one on top of the other
	"dm_crypt",                   // the disk's encryption,
	"xts",                        // its mode
	"aesni_intel",                // and the instructions for it
	"virtio_net",                 // network devices: the agent loads it, and the two it needs, only where there is one
}

const (
	maxModule  = 16 << 20 // bytes of one module, decompressed; Debian's largest is 8 MB
	maxModules = 64       // modules in an initramfs
)

// moduleSet is the modules of one kernel package.
type moduleSet struct {
	builtin map[string]bool
	files   map[string]string                 // module name to path
	read    func(path string) ([]byte, error) // decompressed
}

// module is one module as it is packed.
type module struct {
	File string // NAME.ko
	Data []byte
}

// moduleName is the kernel's name of the module in a file: dm_crypt for dm-crypt.ko.xz.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return canonical(name)
}

func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

// isModule reports whether a file name is a module's, NAME.ko or NAME.ko.xz.
func isModule(file string) bool {
	name, ending, ok := strings.Cut(path.Base(file), ".ko")
	return ok && (ending == "" || ending[0] == '.') && validModule(name)
}

// validModule reports whether a name is fit for modules.load, where it stands on
// a line of its own.
func validModule(name string) bool {
	return name != "" && strings.Trim(name, nameBytes+"_-") == ""
}

// resolve returns the wanted modules and whatever they depend on, each after
// everything it needs. A wanted module that the kernel neither has nor has
// built in is left out: which ones exist differs between kernels.
func (m moduleSet) resolve(names []string) ([]module, error) {
	r := resolver{set: m, state: map[string]int{}}
	for _, n := range names {
		if err := r.add(canonical(n), false); err != nil {
			return nil, err
		}
	}
	return r.out, nil
}

type resolver struct {
	set   moduleSet
	state map[string]int
	out   []module
}

const (
	adding = 1
	added  = 2
)

func (r *resolver) add(name string, needed bool) error {
	file, ok := r.set.files[name]
	switch {
	case r.set.builtin[name] || r.state[name] == added:
		return nil
	case !ok && needed:
		return fmt.Errorf("module %s is not in the package", name)
	case !ok:
		return nil
	case r.state[name] == adding:
		return fmt.Errorf("module %s depends on itself", name)
	case len(r.state) == maxModules:
		return fmt.Errorf("more than %d modules are needed", maxModules)
	}
	r.state[name] = adding
	data, err := r.set.read(file)
	if err != nil {
		return fmt.Errorf("module %s: %w", name, err)
	}
	info, err := modinfo(data)
	if err != nil {
		return fmt.Errorf("module %s: %w", name, err)
	}
	for _, dep := range info.depends {
		if err := r.add(dep, true); err != nil {
			return err
		}
	}
	for _, dep := range info.softPre {
		if err := r.add(dep, false); err != nil {
			return err
		}
	}
	r.state[name] = added
	r.out = append(r.out, module{File: name + ".ko", Data: unsigned(data)})
	return nil
}

// moduleInfo is what a module says of the modules it needs loaded before it.
type moduleInfo struct {
	depends []string
	softPre []string // better loaded before, but may be missing
}

// modinfo reads the .modinfo section: NUL-terminated key=value pairs, written
// by MODULE_SOFTDEP and scripts/mod/modpost.c.
func modinfo(ko []byte) (moduleInfo, error) {
	f, err := elf.NewFile(bytes.NewReader(ko))
	if err != nil {
		return moduleInfo{}, err
	}
	sec := f.Section(".modinfo")
	if sec == nil || sec.Type == elf.SHT_NOBITS || sec.Size > uint64(len(ko)) {
		return moduleInfo{}, errors.New("no .modinfo section")
	}
	b, err := sec.Data()
	if err != nil {
		return moduleInfo{}, err
	}
	var info moduleInfo
	for pair := range strings.SplitSeq(string(b), "\x00") {
		key, value, _ := strings.Cut(pair, "=")
		switch key {
		case "depends":
			info.depends = append(info.depends, moduleNames(strings.Split(value, ","))...)
		case "softdep":
			info.softPre = append(info.softPre, softPre(value)...)
		}
	}
	return info, nil
}

// softPre returns the names after "pre:" in a soft dependency such as
// "pre: ecb post: other".
func softPre(value string) []string {
	words := strings.Fields(value)
	from := slices.Index(words, "pre:")
	if from < 0 {
		return nil
	}
	words = words[from+1:]
	if to := slices.Index(words, "post:"); to >= 0 {
		words = words[:to]
	}
	return moduleNames(words)
}

func moduleNames(words []string) []string {
	var names []string
	for _, w := range words {
		if w = strings.TrimSpace(w); w != "" {
			names = append(names, canonical(w))
		}
	}
	return names
}

// signatureMark ends a signed module: include/linux/module_signature.h.
const (
	signatureMark = "~Module signature appended~\n"
	signatureSize = 12 // struct module_signature; its last 4 bytes are the length of what precedes it
)

// unsigned cuts a module's signature off. Checking it costs the guest 20 to
// 60 ms a module under emulation and proves nothing: kernel and modules come
// out of the same package. The guest's kernel counts as tainted ("E") for it.
func unsigned(ko []byte) []byte {
	body, ok := bytes.CutSuffix(ko, []byte(signatureMark))
	if !ok || len(body) < signatureSize {
		return ko
	}
	n := int(binary.BigEndian.Uint32(body[len(body)-4:]))
	body = body[:len(body)-signatureSize]
	if n > len(body) {
		return ko
	}
	return body[:len(body)-n]
}

// builtinModules reads modules.builtin: one path a line.
func builtinModules(list string) map[string]bool {
	names := map[string]bool{}
	for line := range strings.Lines(list) {
		if line = strings.TrimSpace(line); line != "" {
			names[moduleName(line)] = true
		}
	}
	return names
}
