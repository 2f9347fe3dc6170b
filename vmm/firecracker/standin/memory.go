package standin

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// lowMemory is what of a guest's RAM lies below its devices.
const lowMemory = 3 << 30

// keptSize is how much of the RAM's end the guest's program keeps its text in.
const keptSize = 4096

// regions divides a RAM as Firecracker does.
func regions(mib int) []int {
	size := mib << 20
	if size <= lowMemory {
		return []int{size}
	}
	return []int{lowMemory, size - lowMemory}
}

// bootRAM maps the RAM of a machine that boots, and loads the kernel.
func bootRAM(is settings) (ram [][]byte, err error) {
	for _, size := range regions(is.MemoryMiB) {
		b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
		if err != nil {
			return nil, err
		}
		ram = append(ram, b)
	}
	f, err := elf.Open(is.Kernel)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type != elf.PT_LOAD || p.Filesz == 0 {
			continue
		}
		if p.Paddr+p.Filesz > uint64(len(ram[0])) {
			return nil, errors.New("it does not fit")
		}
		if _, err := io.ReadFull(p.Open(), ram[0][p.Paddr:p.Paddr+p.Filesz]); err != nil {
			return nil, err
		}
	}
	return ram, nil
}

// stateMark begins a state file; what follows is JSON.
func stateMark(version string) []byte { return []byte("firecracker stand-in " + version + "\n") }

// createSnapshot writes both files in the order, and with the checks, of
// Firecracker (src/vmm/src/persist.rs). The guest's connections end.
func (s *server) createSnapshot(c call) (any, error) {
	s.guest.reset()
	writes := []func() error{
		func() error { return s.writeState(c.text("snapshot_path")) },
		func() error { return s.writeMemory(c.text("mem_file_path")) },
	}
	if s.faults.MemoryFirst {
		slices.Reverse(writes)
	}
	for _, write := range writes {
		if err := write(); err != nil {
			return nil, refuse("create snapshot error: %v", err)
		}
	}
	return nil, nil
}

func (s *server) writeState(path string) error {
	text, err := json.Marshal(s.is)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("cannot perform open on the snapshot backing file: %w", err)
	}
	_, err = f.Write(append(stateMark(s.faults.Version), text...))
	return errors.Join(err, f.Close())
}

func (s *server) writeMemory(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("cannot perform open on the memory backing file: %w", err)
	}
	defer f.Close()
	size := int64(s.is.MemoryMiB) << 20
	fi, err := f.Stat()
	if err == nil && fi.Size() != size {
		err = f.Truncate(0)
	}
	if err == nil {
		err = f.Truncate(size)
	}
	if err != nil {
		return fmt.Errorf("cannot perform set_length on the memory backing file: %w", err)
	}
	at := int64(0)
	for _, part := range s.guest.ram {
		if _, err := f.WriteAt(part, at); err != nil {
			return fmt.Errorf("cannot write memory file: %w", err)
		}
		at += int64(len(part))
	}
	return f.Sync()
}

// loadSnapshot goes on from both files. A failure ends the program, as it does
// Firecracker.
func (s *server) loadSnapshot(c call) (any, error) {
	err := s.restore(c)
	if err != nil {
		go s.end(exitBadConfig)
		return nil, refuse("load snapshot error: failed to restore from snapshot: %v", err)
	}
	return nil, nil
}

func (s *server) restore(c call) error {
	text, err := os.ReadFile(c.text("snapshot_path"))
	if err != nil {
		return err
	}
	rest, ok := bytes.CutPrefix(text, stateMark(s.faults.Version))
	if !ok {
		return errors.New("snapshot state from file: unsupported snapshot version")
	}
	if err := json.Unmarshal(rest, &s.is); err != nil {
		return err
	}
	if err := s.override(c); err != nil {
		return err
	}
	backend, _ := c.body["mem_backend"].(map[string]any)
	if backend["backend_type"] != "File" {
		return errors.New("the stand-in has no other memory than files")
	}
	path, _ := backend["backend_path"].(string)
	ram, err := mapFile(path, s.is.MemoryMiB)
	if err != nil {
		return fmt.Errorf("guest memory: %w", err)
	}
	return s.start(ram, !c.flag("resume_vm"))
}

func mapFile(path string, mib int) (ram [][]byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil || fi.Size() < int64(mib)<<20 {
		return nil, fmt.Errorf("the file is too small: %w", err)
	}
	at := int64(0)
	for _, size := range regions(mib) {
		b, err := unix.Mmap(int(f.Fd()), at, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_NORESERVE)
		if err != nil {
			return nil, err
		}
		ram, at = append(ram, b), at+int64(size)
	}
	return ram, nil
}
