package standin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

const nonblock = unix.O_NONBLOCK

// maxBody is Firecracker's bound of a request's body, in bytes.
const maxBody = 51200

// server is the program's state. Its handlers are called one at a time.
type server struct {
	agent   Agent
	dir     string
	faults  Faults
	options options
	log     *os.File
	stdout  io.Writer
	ended   chan int // exit code

	mu      sync.Mutex
	booted  bool
	touched bool // something of the machine was configured
	is      settings
	taps    map[string]*os.File // by the ids of their devices, from the request on that names them
	guest   *guest
}

// settings are what requests have set, and what a saved machine is besides its
// memory.
type settings struct {
	CPUs      int     `json:"cpus"`
	MemoryMiB int     `json:"memory_mib"`
	Kernel    string  `json:"kernel"`
	Initrd    string  `json:"initrd"`
	Args      string  `json:"args"`
	Vsock     string  `json:"vsock"`
	Drives    []drive `json:"drives"`
	NICs      []nic   `json:"nics"`
}

type drive struct {
	ID       string `json:"id"`
	Path     string `json:"path"`
	ReadOnly bool   `json:"read_only"`
	Cache    string `json:"cache"`
	Limit    limits `json:"limit"`
}

func (s *server) say(format string, args ...any) {
	if s.log != nil {
		fmt.Fprintf(s.log, format+"\n", args...)
	}
}

// serve answers until the guest or the program ends, and returns the exit code.
func (s *server) serve() int {
	if s.options.metrics != "" {
		m, err := openPipe(s.options.metrics)
		if err != nil {
			return exitBadConfig
		}
		defer m.Close()
		defer fmt.Fprintln(m, `{"utc_timestamp_ms":1}`)
	}
	if s.faults.NoSocket {
		return <-s.ended
	}
	l, err := listen(s.options.socket)
	if err != nil {
		s.say("Failed to open the API socket: %v", err)
		return exitError
	}
	if s.faults.Deaf {
		return <-s.ended
	}
	go func() { _ = http.Serve(l, s) }() //nolint:gosec // one client, of a test
	return <-s.ended
}

func listen(path string) (net.Listener, error) {
	return (&net.ListenConfig{}).Listen(context.Background(), "unix", path)
}

func (s *server) end(code int) {
	select {
	case s.ended <- code:
	default:
	}
}

// ServeHTTP holds a request to the table.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := r.Method + " " + r.URL.Path
	s.misbehave(w, name)
	out, err := s.answer(r)
	if err != nil {
		s.say("Received Error. Status code: 400 Bad Request. Message: %v", err)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		_ = json.NewEncoder(w).Encode(map[string]string{"fault_message": err.Error()})
		return
	}
	s.say("The request was executed successfully: %s", name)
	if out == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out)
}

// misbehave is where the faults are.
func (s *server) misbehave(w http.ResponseWriter, name string) {
	if s.faults.DieBefore == name {
		s.say("dying as asked")
		os.Exit(exitBadConfig)
	}
	if s.faults.HangAt == name {
		select {}
	}
	if s.faults.Garbage {
		_, _ = io.WriteString(w, "no JSON {")
	}
	for s.faults.Endless {
		if _, err := io.WriteString(w, strings.Repeat(" ", 1<<16)); err != nil {
			return
		}
	}
}

// refusal is an error that is Firecracker's to give, and no mistake of the
// driver's.
type refusal struct{ msg string }

func (r refusal) Error() string { return r.msg }

func refuse(format string, args ...any) error { return refusal{fmt.Sprintf(format, args...)} }

func (s *server) answer(r *http.Request) (out any, err error) {
	name := r.Method + " " + r.URL.Path
	defer func() {
		var mine refusal
		if err != nil && !errors.As(err, &mine) {
			record(s.dir, name+": "+err.Error())
		}
	}()
	if s.faults.Refuse == name {
		return nil, refuse("%s", s.faults.RefuseWords)
	}
	e, id, ok := find(r.Method, r.URL.Path)
	if !ok || r.URL.RawQuery != "" {
		return nil, fmt.Errorf("invalid request method and/or path: %s", name)
	}
	raw, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil || len(raw) > maxBody {
		return nil, fmt.Errorf("the body has no end, or too late a one: %w", err)
	}
	body, err := e.check(id, raw)
	if err != nil {
		return nil, err
	}
	if err := s.allowed(e.when); err != nil {
		return nil, err
	}
	s.touched = s.touched || e.makes
	return e.handle(s, call{id, body})
}

// allowed holds a request to the state of the machine.
func (s *server) allowed(when phase) error {
	switch {
	case (when == preBoot || when == fresh) && s.booted:
		return errors.New("the requested operation is not supported after starting the microVM")
	case when == fresh && s.touched:
		return errors.New("loading a microVM snapshot not allowed after configuring boot-specific resources")
	case (when == postBoot || when == paused) && !s.booted:
		return errors.New("the requested operation is not supported before starting the microVM")
	case when == paused && !s.guest.gate.shut():
		return errors.New("cannot save the microVM state: operation not allowed: save/restore unavailable while the microVM is running")
	}
	return nil
}

func (s *server) nothing(call) (any, error) { return nil, nil }

func (s *server) describe(call) (any, error) {
	state := "Not started"
	if s.booted {
		state = "Running"
		if s.guest.gate.shut() {
			state = "Paused"
		}
	}
	return map[string]string{"app_name": "Firecracker", "id": s.options.id, "state": state, "vmm_version": s.faults.Version}, nil
}

func (s *server) version(call) (any, error) {
	return map[string]string{"firecracker_version": s.faults.Version}, nil
}

func (s *server) machineConfig(call) (any, error) {
	return map[string]any{"vcpu_count": max(1, s.is.CPUs), "mem_size_mib": s.is.MemoryMiB, "smt": false, "track_dirty_pages": false}, nil
}

func (s *server) vmConfig(call) (any, error) {
	drives := []any{}
	for _, d := range s.is.Drives {
		drives = append(drives, map[string]any{
			"drive_id": d.ID, "path_on_host": d.Path, "is_root_device": false, "is_read_only": d.ReadOnly, "cache_type": d.Cache,
		})
	}
	return map[string]any{"drives": drives}, nil
}

func (s *server) putMachineConfig(c call) (any, error) {
	s.is.CPUs, s.is.MemoryMiB = c.number("vcpu_count"), c.number("mem_size_mib")
	return nil, nil
}

func (s *server) putBootSource(c call) (any, error) {
	s.is.Kernel, s.is.Initrd, s.is.Args = c.text("kernel_image_path"), c.text("initrd_path"), c.text("boot_args")
	for _, path := range []string{s.is.Kernel, s.is.Initrd} {
		if _, err := os.Stat(path); path != "" && err != nil {
			return nil, refuse("the kernel file cannot be opened: %v", err)
		}
	}
	return nil, nil
}

func (s *server) putDrive(c call) (any, error) {
	d := drive{ID: c.id, Path: c.text("path_on_host"), ReadOnly: c.flag("is_read_only"), Cache: c.text("cache_type")}
	d.Limit.merge(c.body["rate_limiter"])
	if filepath.IsAbs(d.Path) {
		return nil, errors.New("a saved state must not hold a path of another machine's")
	}
	if err := d.try(); err != nil {
		return nil, refuse("unable to create the virtio block device: %v", err)
	}
	for i, there := range s.is.Drives {
		if there.ID == d.ID {
			s.is.Drives[i] = d
			return nil, nil
		}
	}
	s.is.Drives = append(s.is.Drives, d)
	return nil, nil
}

func (d drive) try() error {
	f, err := d.open()
	if err != nil {
		return err
	}
	return f.Close()
}

func (d drive) open() (*os.File, error) {
	if d.ReadOnly {
		return os.Open(d.Path)
	}
	return os.OpenFile(d.Path, os.O_RDWR, 0)
}

func (s *server) patchDrive(c call) (any, error) {
	for i, d := range s.is.Drives {
		if d.ID != c.id {
			continue
		}
		if path := c.text("path_on_host"); path != "" {
			d.Path = path
			f, err := d.open()
			if err != nil {
				return nil, refuse("unable to patch the block device: %v", err)
			}
			s.guest.setDrive(i, f)
		}
		d.Limit.merge(c.body["rate_limiter"])
		s.is.Drives[i] = d
		s.guest.drivePaces[i].set(d.Limit)
		return nil, nil
	}
	return nil, refuse("unable to patch the block device: there is no %s", c.id)
}

func (s *server) putVsock(c call) (any, error) {
	s.is.Vsock = c.text("uds_path")
	if filepath.IsAbs(s.is.Vsock) {
		return nil, errors.New("a saved state must not hold a path of another machine's")
	}
	return nil, nil
}

func (s *server) act(c call) (any, error) {
	if c.text("action_type") != "InstanceStart" {
		return nil, s.allowed(postBoot)
	}
	if err := s.allowed(preBoot); err != nil {
		return nil, err
	}
	if s.is.Kernel == "" {
		return nil, errors.New("cannot start microvm without kernel configuration")
	}
	ram, err := bootRAM(s.is)
	if err != nil {
		return nil, refuse("cannot load kernel due to invalid memory configuration or invalid kernel image: %v", err)
	}
	return nil, s.start(ram, false)
}

// start makes the guest run, or stand still at once.
func (s *server) start(ram [][]byte, still bool) error {
	g, err := newGuest(s, ram, still)
	if err != nil {
		return refuse("cannot create the guest's devices: %v", err)
	}
	s.guest, s.booted = g, true
	return s.plant()
}

// plant makes the links that are to lead somebody astray.
func (s *server) plant() error {
	for name, to := range s.faults.Links {
		if err := errors.Join(os.Remove(name), os.Symlink(to, name)); err != nil {
			return err
		}
	}
	return nil
}

func (s *server) patchVM(c call) (any, error) {
	if c.text("state") == "Paused" {
		s.guest.gate.close()
	} else {
		s.guest.gate.open()
	}
	return nil, nil
}
