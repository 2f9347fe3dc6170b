package jail

import (
	"bufio"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/dayfly/dayfly"
)

// bind is a file or directory of the host, and where the jail has it.
type bind struct {
	From string `json:"from"`
	To   string `json:"to"`
	Dir  bool   `json:"dir"`
	Exec bool   `json:"exec"` // its text can be run or mapped to be run
}

// program is what a program needs to be started.
type program struct {
	path  string // in the jail
	binds []bind
	links map[string]string // symbolic links of the root, such as /lib
}

// programs remembers what programs need, until one is another file.
type programs struct {
	mu    sync.Mutex
	known map[string]known
}

type known struct {
	ino     uint64
	dev     uint64
	mtime   syscall.Timespec
	program program
}

func (p *programs) find(path string) (program, error) {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return program{}, dayfly.Errorf(dayfly.Unavailable, "jail: program %s is not there: install it", path)
	}
	if err != nil {
		return program{}, fmt.Errorf("jail: program: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() {
		return program{}, dayfly.Errorf(dayfly.Invalid, "jail: %s is no program", path)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if k, ok := p.known[path]; ok && k.ino == st.Ino && k.dev == st.Dev && k.mtime == st.Mtim {
		return k.program, nil
	}
	found, err := resolve(path)
	if err != nil {
		return program{}, err
	}
	if p.known == nil {
		p.known = map[string]known{}
	}
	p.known[path] = known{st.Ino, st.Dev, st.Mtim, found}
	return found, nil
}

// maxLibraries bounds what a program may need; QEMU has about 50.
const maxLibraries = 1000

// resolver looks for libraries as ld.so(8) does: where the file that needs one
// says, then in the standard directories, then in those of ld.so.conf, which
// the loader knows by its cache.
type resolver struct {
	program
	todo  []bind          // whose libraries have not been looked for
	extra []string        // directories of ld.so.conf
	have  map[string]bool // by the name in the jail
	class elf.Class
	arch  elf.Machine
}

var standardDirs = []string{
	"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu", "/usr/lib/aarch64-linux-gnu",
	"/lib64", "/usr/lib64", "/lib", "/usr/lib",
}

const loaderCache = "/etc/ld.so.cache"

func resolve(path string) (program, error) {
	r := &resolver{have: map[string]bool{}, extra: loaderDirs("/etc/ld.so.conf", 0)}
	r.links = topLinks()
	f, err := elf.Open(path)
	if err != nil {
		return program{}, dayfly.Errorf(dayfly.Invalid, "jail: %s is no ELF program", path)
	}
	r.class, r.arch = f.Class, f.Machine
	interpreter := interpreterOf(f)
	_ = f.Close()
	r.path = r.add(path)
	if interpreter != "" {
		r.add(interpreter)
	}
	for len(r.todo) > 0 {
		if len(r.binds) > maxLibraries {
			return program{}, dayfly.Errorf(dayfly.Invalid, "jail: %s needs more than %d libraries", path, maxLibraries)
		}
		next := r.todo[0]
		r.todo = r.todo[1:]
		if err := r.needs(next); err != nil {
			return program{}, err
		}
	}
	return r.program, nil
}

// add puts a file into the jail, under its own name in its real directory: a
// library's name is mostly a link to a longer one.
func (r *resolver) add(path string) string {
	to := path
	if dir, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		to = filepath.Join(dir, filepath.Base(path))
	}
	if r.have[to] {
		return to
	}
	r.have[to] = true
	from, err := filepath.EvalSymlinks(path)
	if err != nil {
		from = path // the mount will say what is missing
	}
	b := bind{From: from, To: to, Exec: true}
	r.binds, r.todo = append(r.binds, b), append(r.todo, b)
	return to
}

// needs adds the libraries that a file names.
func (r *resolver) needs(b bind) error {
	f, err := elf.Open(b.From)
	if err != nil {
		return dayfly.Errorf(dayfly.Unavailable, "jail: library %s of %s cannot be read: install it again", b.To, r.path)
	}
	defer f.Close()
	names, err := f.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("jail: libraries of %s: %w", b.To, err)
	}
	var dirs []string
	for _, tag := range []elf.DynTag{elf.DT_RPATH, elf.DT_RUNPATH} {
		paths, err := f.DynString(tag)
		if err != nil {
			return fmt.Errorf("jail: libraries of %s: %w", b.To, err)
		}
		for _, list := range paths {
			for dir := range strings.SplitSeq(list, ":") {
				dirs = append(dirs, strings.NewReplacer("$ORIGIN", filepath.Dir(b.From), "${ORIGIN}", filepath.Dir(b.From)).Replace(dir))
			}
		}
	}
	for _, name := range names {
		if err := r.library(name, dirs); err != nil {
			return err
		}
	}
	return nil
}

func (r *resolver) library(name string, dirs []string) error {
	if strings.Contains(name, "/") {
		r.add(name)
		return nil
	}
	for _, dir := range slices.Concat(dirs, standardDirs) {
		if filepath.IsAbs(dir) && r.fits(filepath.Join(dir, name)) {
			r.add(filepath.Join(dir, name))
			return nil
		}
	}
	for _, dir := range r.extra {
		if r.fits(filepath.Join(dir, name)) {
			r.add(filepath.Join(dir, name))
			if !r.have[loaderCache] {
				r.have[loaderCache] = true
				r.binds = append(r.binds, bind{From: loaderCache, To: loaderCache})
			}
			return nil
		}
	}
	return dayfly.Errorf(dayfly.Unavailable, "jail: the library %s, which %s needs, is not on this host: install it", name, r.path)
}

// fits reports whether a file is a library for the same kind of processor.
func (r *resolver) fits(path string) bool {
	f, err := elf.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return f.Class == r.class && f.Machine == r.arch
}

func interpreterOf(f *elf.File) string {
	for _, p := range f.Progs {
		const longest = 4096
		if p.Type != elf.PT_INTERP || p.Filesz > longest {
			continue
		}
		b := make([]byte, p.Filesz)
		if _, err := p.ReadAt(b, 0); err == nil {
			return strings.TrimRight(string(b), "\x00")
		}
	}
	return ""
}

// topLinks are those of the root's directories that are links on this host, as
// /lib is to usr/lib: the loader looks by either name.
func topLinks() map[string]string {
	links := map[string]string{}
	for _, name := range []string{"/bin", "/sbin", "/lib", "/lib32", "/lib64"} {
		if to, err := os.Readlink(name); err == nil && !strings.Contains(to, "..") {
			links[name] = to
		}
	}
	return links
}

// loaderDirs reads ld.so.conf and what it includes.
func loaderDirs(path string, depth int) (dirs []string) {
	const deepest = 4
	f, err := os.Open(path)
	if err != nil || depth > deepest {
		return nil
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(line)
		switch {
		case len(fields) == 2 && fields[0] == "include":
			files, _ := filepath.Glob(fields[1]) // a pattern that is none has no files
			for _, name := range files {
				dirs = append(dirs, loaderDirs(name, depth+1)...)
			}
		case len(fields) == 1 && filepath.IsAbs(fields[0]):
			dirs = append(dirs, fields[0])
		}
	}
	return dirs
}
