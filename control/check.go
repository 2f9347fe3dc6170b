package control

import (
	"context"
	"strings"

	"github.com/dayfly/dayfly"
)

// Bounds on what a caller may have kept for a workspace.
const (
	maxMetadata     = 64 // entries
	maxMetadataSize = 16 << 10
	maxCommand      = 64 << 10 // bytes of a command line
	maxOnce         = 255
	maxSeconds      = 10 * 365 * 24 * 3600
	defaultReady    = 60 // seconds
)

// check returns a spec with its defaults, the snapshot it names by id, and
// refuses what can never work.
func (c *Control) check(ctx context.Context, spec dayfly.Spec, o dayfly.CreateOptions) (dayfly.Spec, error) {
	if o.Wait != "" && o.Wait != dayfly.WaitReady && o.Wait != dayfly.WaitCreated {
		return spec, dayfly.Errorf(dayfly.Invalid, "wait is %q: use ready or created", o.Wait)
	}
	if len(o.Once) > maxOnce {
		return spec, dayfly.Errorf(dayfly.Invalid, "the idempotency key is %d bytes long: use at most %d", len(o.Once), maxOnce)
	}
	spec, err := spec.Normal()
	if err != nil {
		return spec, err
	}
	if err := checkRules(spec); err != nil {
		return spec, err
	}
	if spec.Snapshot == "" {
		return spec, nil
	}
	sn, err := c.snapshot(ctx, dayfly.CallerOf(ctx).Home(), spec.Snapshot)
	if err != nil {
		return spec, err
	}
	spec.Snapshot = string(sn.ID) // its name may come to be another's
	spec.CPUs, spec.MemoryMiB, spec.DiskMiB, spec.Accel = sn.Spec.CPUs, sn.Spec.MemoryMiB, sn.Spec.DiskMiB, sn.Spec.Accel
	return spec, nil
}

// checkRules refuses rules that make no sense, with the field, what it is and
// what it may be.
func checkRules(s dayfly.Spec) error {
	hasCommand := s.ImageCommand || len(s.Command) > 0
	policy := s.Restart.Policy
	switch {
	case s.OnTimeout != "" && s.OnTimeout != dayfly.DeleteIt && s.OnTimeout != dayfly.StopIt && s.OnTimeout != dayfly.PauseIt:
		return dayfly.Errorf(dayfly.Invalid, "on_timeout is %q: use delete, stop or pause", s.OnTimeout)
	case s.Idle.PauseAfter > 0 && s.Idle.StopAfter > 0 && s.Idle.StopAfter <= s.Idle.PauseAfter:
		return dayfly.Errorf(dayfly.Invalid, "idle: stop_after_s is %d and pause_after_s %d: both count from the last use, so the first is the larger", s.Idle.StopAfter, s.Idle.PauseAfter)
	case policy != "" && policy != dayfly.RestartNo && policy != dayfly.RestartOnFailure && policy != dayfly.RestartAlways && policy != dayfly.RestartUnlessStopped:
		return dayfly.Errorf(dayfly.Invalid, "restart policy is %q: use no, on-failure, always or unless-stopped", policy)
	case s.RemoveOnExit && !hasCommand:
		return dayfly.Errorf(dayfly.Invalid, "remove_on_exit needs a main command: give command or image_command")
	case s.RemoveOnExit && policy != "" && policy != dayfly.RestartNo:
		return dayfly.Errorf(dayfly.Invalid, "remove_on_exit and restart policy %s exclude each other: use one", policy)
	}
	for _, f := range []struct {
		name  string
		value int
	}{
		{"timeout_s", s.Timeout},
		{"idle: pause_after_s", s.Idle.PauseAfter}, {"idle: stop_after_s", s.Idle.StopAfter},
		{"restart: max", s.Restart.Max}, {"ready: timeout_s", s.Ready.Timeout},
	} {
		if f.value < 0 || f.value > maxSeconds {
			return dayfly.Errorf(dayfly.Invalid, "%s is %d: use 0 to %d", f.name, f.value, maxSeconds)
		}
	}
	for name, line := range map[string][]string{"command": s.Command, "ready: command": s.Ready.Command} {
		if text := strings.Join(line, " "); len(text) > maxCommand || strings.ContainsRune(text, 0) {
			return dayfly.Errorf(dayfly.Invalid, "%s: use at most %d bytes in all, and no NUL among them", name, maxCommand)
		}
	}
	if !s.ImageCommand && len(s.Command) > 0 && s.Command[0] == "" || len(s.Ready.Command) > 0 && s.Ready.Command[0] == "" {
		return dayfly.Errorf(dayfly.Invalid, "command: its first word is a program, and is empty")
	}
	return checkMetadata(s.Metadata)
}

func checkMetadata(m map[string]string) error {
	size := 0
	for k, v := range m {
		if k == "" || strings.ContainsRune(k+v, 0) {
			return dayfly.Errorf(dayfly.Invalid, "metadata %q: a key is not empty, and neither key nor value holds a NUL byte", k)
		}
		size += len(k) + len(v)
	}
	if len(m) > maxMetadata || size > maxMetadataSize {
		return dayfly.Errorf(dayfly.Invalid, "metadata has %d entries of %d bytes in all: use at most %d and %d", len(m), size, maxMetadata, maxMetadataSize)
	}
	return nil
}

// hasRoom refuses early, before the queue, what the store would refuse. What it
// lets pass is only reserved by the store.
func (c *Control) hasRoom(ctx context.Context, namespace string, s dayfly.Spec) error {
	ns, err := c.db.Namespace(ctx, namespace)
	if err != nil {
		return c.counted(err)
	}
	if ns.Suspended {
		return dayfly.Errorf(dayfly.Denied, "namespace %s is suspended: nothing can be made in it", namespace)
	}
	if ns.Limits == (dayfly.Limits{}) {
		return nil
	}
	q, err := c.db.Quota(ctx, namespace)
	if err != nil {
		return c.counted(err)
	}
	l, u := q.Limits, q.Used
	for _, f := range []struct {
		what             string
		limit, used, add int
	}{
		{"cpus of one workspace", l.WorkspaceCPUs, 0, s.CPUs},
		{"memory_mib of one workspace", l.WorkspaceMemoryMiB, 0, s.MemoryMiB},
		{"disk_mib of one workspace", l.WorkspaceDiskMiB, 0, s.DiskMiB},
		{"workspaces", l.Workspaces, u.Workspaces, 1},
		{"running", l.Running, u.Running, 1},
		{"cpus", l.CPUs, u.CPUs, s.CPUs},
		{"memory_mib", l.MemoryMiB, u.MemoryMiB, s.MemoryMiB},
		{"disk_mib", l.DiskMiB, u.DiskMiB, s.DiskMiB},
	} {
		if f.limit > 0 && f.used+f.add > f.limit {
			return dayfly.Errorf(dayfly.Exhausted, "namespace %s: %s %d/%d used, and this asks for %d: delete or stop some, or ask an admin for more",
				namespace, f.what, f.used, f.limit, f.add)
		}
	}
	return nil
}
