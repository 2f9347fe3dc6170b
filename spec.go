package dayfly

import "strings"

// Spec is what a caller asks for. The zero value of every field but Image has
// a default, filled in by Normal.
type Spec struct {
	Image     string            `json:"image,omitempty"`      // name or reference of an image
	Snapshot  string            `json:"snapshot,omitempty"`   // name or id of a snapshot to start from, instead of an image; cpus, memory, disk and accel are then the snapshot's
	Name      string            `json:"name,omitempty"`       // a label of the caller's; also the host name where it can be one
	CPUs      int               `json:"cpus,omitempty"`       // virtual CPUs; default 1
	CPULimit  float64           `json:"cpu_limit,omitempty"`  // processors' time that the machine may use at most, such as 0.25; 0: as many as CPUs
	MemoryMiB int               `json:"memory_mib,omitempty"` // guest RAM; default 512
	DiskMiB   int               `json:"disk_mib,omitempty"`   // size of the private disk; sparse, so it costs what is written; default 8192
	Env       map[string]string `json:"env,omitempty"`        // added to the image's environment for every process
	User      string            `json:"user,omitempty"`       // default user of processes; default: the image's
	Workdir   string            `json:"workdir,omitempty"`    // default directory of processes; default: the image's
	Accel     Accel             `json:"accel,omitempty"`      // default auto
	Cold      bool              `json:"cold,omitempty"`       // boot a kernel even where a faster start is possible
	Keep      bool              `json:"keep,omitempty"`       // the disk outlives machine and server: then stopped or failed, never deleted unasked
	Timeout   int               `json:"timeout_s,omitempty"`  // seconds from each start until OnTimeout is done; 0: never
	OnTimeout Action            `json:"on_timeout,omitempty"` // delete, stop or pause; default delete, or stop for one that is to be kept

	// Of servers; a process that ends with its workspaces refuses them.
	Metadata     map[string]string `json:"metadata,omitempty"`       // the caller's own; can be searched for
	Idle         Idle              `json:"idle,omitzero"`            // what to do with a workspace that nobody uses
	Restart      Restart           `json:"restart,omitzero"`         // what to do when it ends by itself
	Command      []string          `json:"command,omitempty"`        // its main command, started with it
	ImageCommand bool              `json:"image_command,omitempty"`  // the main command is the image's own entrypoint, with Command as its arguments
	RemoveOnExit bool              `json:"remove_on_exit,omitempty"` // delete it when the main command has ended
	Ready        ReadyCheck        `json:"ready,omitzero"`           // when it counts as ready; default: once it runs
}

// Action is what becomes of a workspace by a rule.
type Action string

// The actions.
const (
	DeleteIt Action = "delete"
	StopIt   Action = "stop"
	PauseIt  Action = "pause"
)

// AtTimeout is what becomes of the workspace when its time is up.
func (s Spec) AtTimeout() Action {
	switch {
	case s.OnTimeout != "":
		return s.OnTimeout
	case s.Keep:
		return StopIt
	}
	return DeleteIt
}

// Idle is the rule for a workspace that nobody uses: no call to its in-guest
// API is under way, and none, nor a keep-alive, was for so many seconds. 0:
// never. Stop counts from the last use as well, so it is the larger.
type Idle struct {
	PauseAfter int `json:"pause_after_s,omitempty"`
	StopAfter  int `json:"stop_after_s,omitempty"`
}

// Restart is the rule for a main command, or a machine, that ends by itself. The
// pause before the n-th restart in a row is 2^(n-1) seconds, at most a minute.
type Restart struct {
	Policy RestartPolicy `json:"policy,omitempty"` // default no
	Max    int           `json:"max,omitempty"`    // restarts in a row, without ten minutes of running between; 0: no bound
}

// RestartPolicy says which ends are followed by a restart.
type RestartPolicy string

// The restart policies, as container runtimes have them. The last two differ
// only for workspaces that were stopped when the server ended.
const (
	RestartNo            RestartPolicy = "no"
	RestartOnFailure     RestartPolicy = "on-failure"     // the command's exit code is not 0, or the machine failed
	RestartAlways        RestartPolicy = "always"         // also started when the server starts
	RestartUnlessStopped RestartPolicy = "unless-stopped" // always, but not what a caller has stopped
)

// ReadyCheck is a command that is run in the workspace, once a second, until it
// exits with 0: then the workspace is ready.
type ReadyCheck struct {
	Command []string `json:"command,omitempty"`
	Timeout int      `json:"timeout_s,omitempty"` // seconds until the start has failed; default 60
}

// Bounds and defaults of a Spec.
const (
	DefaultCPUs      = 1
	DefaultMemoryMiB = 512
	DefaultDiskMiB   = 8 << 10

	MaxCPUs      = 32
	MinCPULimit  = 0.05 // below that a guest's clock stands still for longer than its kernel takes for sound
	MinMemoryMiB = 128  // a stock distribution kernel with its initramfs does not come up in 64
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
	case !s.limitFits():
		return s, Errorf(Invalid, "cpu_limit is %g: use %g to %d, the number of cpus, or 0 for as much as they give", s.CPULimit, MinCPULimit, s.CPUs)
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

// limitFits says whether CPULimit is one. How many CPUs a snapshot has is not
// known here.
func (s Spec) limitFits() bool {
	most := s.CPUs
	if s.Snapshot != "" {
		most = MaxCPUs
	}
	return s.CPULimit == 0 || s.CPULimit >= MinCPULimit && s.CPULimit <= float64(most)
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
