package kernel

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/dayfly/dayfly"
)

const (
	maxPackageFiles = 20_000    // Debian's largest kernel package has 4,500
	maxPackageBytes = 2 << 30   // decompressed; Debian's largest has 600 MB
	maxModuleList   = 1 << 20   // modules.builtin; Debian's has 10 kB
	progressEvery   = 512 << 10 // bytes of the package
)

// Import unpacks the kernel in a Debian linux-image package, a file, and the
// modules that a guest needs. Nothing is installed on the host. A package that
// has been imported before is recognised by its content. progress may be nil.
// The error is Invalid for a file that is no such package.
func (s *Store) Import(ctx context.Context, deb string, progress func(dayfly.Progress)) (dayfly.Kernel, error) {
	if progress == nil {
		progress = func(dayfly.Progress) {}
	}
	digest, err := fileDigest(deb)
	if err != nil {
		return dayfly.Kernel{}, &dayfly.Error{Kind: dayfly.NotFound, Err: err,
			Msg: "kernel: import: the package file cannot be read: \"apt-get download linux-image-cloud-amd64\" and the package it depends on fetch one"}
	}
	if rec, ok, err := s.byDigest(ctx, digest); ok || err != nil {
		return rec.Kernel, err
	}
	j, err := s.newJob("import")
	if err != nil {
		return dayfly.Kernel{}, fmt.Errorf("kernel: import: %w", err)
	}
	defer j.remove()
	p, err := unpackDeb(ctx, deb, j.path("package"), progress)
	if err != nil {
		return dayfly.Kernel{}, importError(ctx, deb, err)
	}
	rec, err := p.assemble(j.path("kernel"))
	if err != nil {
		return dayfly.Kernel{}, importError(ctx, deb, err)
	}
	rec.Source, rec.Digest = filepath.Base(deb), digest
	if err := s.add(j.path("kernel"), rec); err != nil {
		return dayfly.Kernel{}, fmt.Errorf("kernel: import: %w", err)
	}
	return s.get(ctx, rec.ID)
}

// importError tells a bad package from a full disk or an impatient caller.
func importError(ctx context.Context, deb string, err error) error {
	var fault *os.PathError
	if ctx.Err() != nil || errors.As(err, &fault) {
		return fmt.Errorf("kernel: import: %w", err)
	}
	return dayfly.Errorf(dayfly.Invalid, "kernel: import: %s: %w; a Debian package linux-image-*-cloud-amd64 is wanted", filepath.Base(deb), err)
}

func fileDigest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}

func (s *Store) byDigest(ctx context.Context, digest string) (record, bool, error) {
	recs, err := s.records(ctx)
	for _, r := range recs {
		if r.Digest == digest {
			return r, true, nil
		}
	}
	return record{}, false, err
}

// add completes a kernel's directory with its record and publishes it.
func (s *Store) add(dir string, rec record) error {
	if err := writeRecord(dir, rec); err != nil {
		return err
	}
	return publish(dir, filepath.Join(s.kernels(), rec.ID))
}

func (s *Store) get(ctx context.Context, id string) (dayfly.Kernel, error) {
	rec, err := s.find(ctx, id)
	return rec.Kernel, err
}

// unpacked is what was taken out of a package: module files as they were, in
// one directory.
type unpacked struct {
	release string
	vmlinux []byte
	modules moduleSet
}

func unpackDeb(ctx context.Context, deb, dir string, progress func(dayfly.Progress)) (*unpacked, error) {
	f, err := os.Open(deb)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	files, err := openDebData(&meter{r: f, alive: ctx.Err, report: func(done int64) {
		progress(dayfly.Progress{Step: "unpack", Done: done, Total: fi.Size()})
	}})
	if err != nil {
		return nil, err
	}
	u := &unpacked{modules: moduleSet{builtin: map[string]bool{}, files: map[string]string{}, read: readModule}}
	if err := u.take(files, dir); err != nil {
		return nil, err
	}
	if u.vmlinux == nil {
		return nil, errors.New("no kernel in the package")
	}
	progress(dayfly.Progress{Step: "unpack", Done: fi.Size(), Total: fi.Size()})
	return u, nil
}

// take goes through the package's files once.
func (u *unpacked) take(files *tar.Reader, dir string) error {
	var total int64
	for range maxPackageFiles {
		h, err := files.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("package: %w", err)
		}
		if total += h.Size; total > maxPackageBytes || h.Size < 0 {
			return fmt.Errorf("package of more than %d bytes", maxPackageBytes)
		}
		if h.Typeflag == tar.TypeReg {
			if err := u.takeFile(path.Clean("/"+h.Name), files, dir); err != nil {
				return err
			}
		}
	}
	return fmt.Errorf("package of more than %d files", maxPackageFiles)
}

func (u *unpacked) takeFile(name string, r io.Reader, dir string) (err error) {
	base := path.Base(name)
	switch {
	case path.Dir(name) == "/boot" && strings.HasPrefix(base, "vmlinuz-"):
		if u.vmlinux != nil {
			return errors.New("two kernels in the package")
		}
		u.release = strings.TrimPrefix(base, "vmlinuz-")
		u.vmlinux, err = Vmlinux(r)
	case base == "modules.builtin":
		var list []byte
		list, err = io.ReadAll(io.LimitReader(r, maxModuleList))
		u.modules.builtin = builtinModules(string(list))
	case isModule(base):
		// Numbered: two directories may hold files of the same name.
		to := filepath.Join(dir, fmt.Sprintf("%d-%s", len(u.modules.files), base))
		u.modules.files[moduleName(base)] = to
		err = writeTemp(to, r)
	}
	return err
}

// writeTemp writes a file that need not survive anything.
func writeTemp(path string, r io.Reader) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

// readModule returns a module file's content, decompressed.
func readModule(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r, err := decompress(path, f)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxModule {
		return nil, fmt.Errorf("more than %d bytes", maxModule)
	}
	return b, nil
}

// assemble writes the kernel's directory, but for its record.
func (u *unpacked) assemble(dir string) (record, error) {
	if !validRelease(u.release) {
		return record{}, fmt.Errorf("release %q is not a kernel's", u.release)
	}
	if err := checkPVH(u.vmlinux); err != nil {
		return record{}, err
	}
	mods, err := u.modules.resolve(wanted)
	if err != nil {
		return record{}, err
	}
	if err := os.MkdirAll(filepath.Join(dir, modulesDir), 0o700); err != nil {
		return record{}, err
	}
	sum := sha256.New()
	sum.Write(u.vmlinux)
	var names []string
	for _, m := range mods {
		fmt.Fprintf(sum, "%s %d\n", m.File, len(m.Data))
		sum.Write(m.Data)
		names = append(names, m.File)
		if err := writeFile(filepath.Join(dir, modulesDir, m.File), m.Data); err != nil {
			return record{}, err
		}
	}
	if err := writeFile(filepath.Join(dir, vmlinuxName), u.vmlinux); err != nil {
		return record{}, err
	}
	return record{
		Kernel: dayfly.Kernel{
			ID:      u.release + "-" + hex.EncodeToString(sum.Sum(nil)[:4]),
			Release: u.release,
			Flavour: Distribution,
			Size:    int64(len(u.vmlinux)),
		},
		Modules:   names,
		CreatedAt: time.Now().UTC().Truncate(time.Second),
	}, nil
}

// checkPVH makes sure that a VMM can enter the kernel without firmware:
// XEN_ELFNOTE_PHYS32_ENTRY, include/xen/interface/elfnote.h.
func checkPVH(vmlinux []byte) error {
	const phys32Entry = "\x12\x00\x00\x00Xen\x00"
	f, err := elf.NewFile(bytes.NewReader(vmlinux))
	if err != nil {
		return err
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_NOTE || p.Filesz > uint64(len(vmlinux)) {
			continue
		}
		notes, err := io.ReadAll(p.Open())
		if err == nil && bytes.Contains(notes, []byte(phys32Entry)) {
			return nil
		}
	}
	return errors.New("the kernel has no PVH entry (CONFIG_PVH)")
}

// meter reports how much has been read and ends reading when nobody waits any more.
type meter struct {
	alive    func() error
	r        io.Reader
	report   func(done int64)
	n, shown int64
}

func (m *meter) Read(p []byte) (int, error) {
	if err := m.alive(); err != nil {
		return 0, err
	}
	n, err := m.r.Read(p)
	m.n += int64(n)
	if m.n-m.shown >= progressEvery || err == io.EOF {
		m.shown = m.n
		m.report(m.n)
	}
	return n, err
}
