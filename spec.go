package dayfly

import "strings"

// Spec is what a caller asks for. The zero value of every field but Image has
// a default, filled in by Normal.
type Spec struct {
	Image     string            `json:"image,omitempty"`      // name or reference of an image
	Snapshot  string            `json:"snapshot,omitempty"`   // name or id of a snapshot to start from, instead of an image; cpus, memory, disk and accel are then the snapshot's
	Name      string            `json:"name,omitempty"`       // a label of the caller's; also the host name where it can be one
	CPUs      int               `json:"cpus,omitempty"`       // virtual CPUs; default 1
	MemoryMiB int               `json:"memory_mib,omitempty"` // guest RAM; default 512
	DiskMiB   int               `json:"disk_mib,omitempty"`   // size of the private disk; sparse, so it costs what is written; default 8192
	Env       map[string]string `json:"env,omitempty"`        // added to the image's environment for every process
	User      string            `json:"user,omitempty"`       // default user of processes; default: the image's
	Workdir   string            `json:"workdir,omitempty"`    // default directory of processes; default: the image's
	Accel     Accel             `json:"accel,omitempty"`      // default auto
	Cold      bool              `json:"cold,omitempty"`       // boot a kernel even where a faster start is possible
	Keep      bool              `json:"keep,omitempty"`       // the disk outlives machine and server: then stopped or failed, never deleted unasked
	Timeout   int               `json:"timeout_s,omitempty"`  // seconds until the workspace is deleted; 0: never
}

// Bounds and defaults of a Spec.
const (
	DefaultCPUs      = 1
	DefaultMemoryMiB = 512
	DefaultDiskMiB   = 8 << 10

	MaxCPUs      = 32
	MinMemoryMiB = 128 // a stock distribution kernel with its initramfs does not come up in 64
	MaxMemoryMiB = 64 << 10
	MinDiskMiB   = 64
	MaxDiskMiB   = 2 << 20

	maxNameLen = 255
	maxEnvLen  = 128 << 10
)

// isEnvName says whether s names a variable: a letter or _, then letters,
// digits and _ . -. It is no regular expression, as those are compiled at the
// start of every program that knows this package, the guest's init among them.
func isEnvName(s string) bool {
	for i, r := range s {
		letter := r == '_' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
		if !letter && (i == 0 || !(r == '.' || r == '-' || '0' <= r && r <= '9')) {
			return false
		}
	}
	return s != ""
}

// Normal returns s with its defaults filled in, or an Invalid error naming the
// field, what it was, and what it may be.
func (s Spec) Normal() (Spec, error) {
	s.CPUs = orDefault(s.CPUs, DefaultCPUs)
	s.MemoryMiB = orDefault(s.MemoryMiB, DefaultMemoryMiB)
	s.DiskMiB = orDefault(s.DiskMiB, DefaultDiskMiB)
	if s.Accel == "" {
		s.Accel = Auto
	}
	switch {
	case s.Snapshot != "" && s.Image != "":
		return s, Errorf(Invalid, "image and snapshot are both given: a snapshot brings its own image, so name one of the two")
	case s.Snapshot == "" && strings.TrimSpace(s.Image) == "":
		return s, Errorf(Invalid, "image is empty: name one, such as base (see: dayfly image ls)")
	case len(s.Name) > maxNameLen || strings.ContainsFunc(s.Name, isControl):
		return s, Errorf(Invalid, "name must be at most %d printable bytes", maxNameLen)
	case s.Accel != Auto && s.Accel != KVM && s.Accel != TCG:
		return s, Errorf(Invalid, "accel is %q: use auto, kvm or tcg", s.Accel)
	case s.Timeout < 0:
		return s, Errorf(Invalid, "timeout is %d s: use 0 for none or a positive number", s.Timeout)
	}
	for _, f := range []struct {
		name            string
		value, min, max int
		unit            string
	}{
		{"cpus", s.CPUs, 1, MaxCPUs, ""},
		{"memory", s.MemoryMiB, MinMemoryMiB, MaxMemoryMiB, " MiB"},
		{"disk", s.DiskMiB, MinDiskMiB, MaxDiskMiB, " MiB"},
	} {
		if f.value < f.min || f.value > f.max {
			return s, Errorf(Invalid, "%s is %d%s: use %d to %d", f.name, f.value, f.unit, f.min, f.max)
		}
	}
	return s, s.checkEnv()
}

func (s Spec) checkEnv() error {
	size := 0
	for k, v := range s.Env {
		if !isEnvName(k) || strings.ContainsRune(v, 0) {
			return Errorf(Invalid, "env %q: a name is letters, digits and _ . -, and a value holds no NUL byte", k)
		}
		size += len(k) + len(v)
	}
	if size > maxEnvLen {
		return Errorf(Invalid, "env is %d bytes in all: use at most %d", size, maxEnvLen)
	}
	return nil
}

func orDefault(v, def int) int {
	if v == 0 {
		return def
	}
	return v
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }
