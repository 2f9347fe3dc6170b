package firecracker

import (
	"context"
	"os"
	"path/filepath"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm"
)

// A Firecracker that a Spawner puts somewhere, such as into a jail, sees none of
// our directories. There it has one like that which it has without: with the
// drives as files, and a room that it makes its sockets in. The links to the
// drives are made in the machine's directory all the same, for whoever adopts it.
const insideDir = "/machine"

func inside(name string) string { return insideDir + "/" + name }

// environment is all that Firecracker has.
var environment = []string{"LC_ALL=C"}

// Program is what machines are processes of.
func (d *Driver) Program(accel dayfly.Accel) (vmm.Program, error) {
	path, err := d.find()
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		return vmm.Program{}, notThere(err)
	}
	return vmm.Program{Path: path, KVM: accel == dayfly.KVM}, nil
}

var _ vmm.Programmed = (*Driver)(nil)

// lodge starts Firecracker where the Spawner puts it.
func (l *launch) lodge(ctx context.Context, s spec) (*process, error) {
	program, err := l.driver.Program(l.config.Accel)
	if err != nil {
		return nil, err
	}
	c := vmm.Command{
		Program: program, Args: append([]string{s.name}, s.args...), Env: environment, Dir: insideDir,
		Out: s.stdout, Err: s.stderr, Files: s.files, Paths: l.paths(), Orphan: s.orphan,
		Room: inside(roomName),
	}
	for i := range l.config.Drives {
		c.Places = append(c.Places, inside(newName(driveName(i))))
	}
	for _, n := range l.config.NICs {
		c.TAPs, c.NamesTAPs = append(c.TAPs, n.TAP), true
	}
	if l.m.base != nil {
		c.Reopened = memoryFD
	}
	in, err := l.config.Spawner.Spawn(ctx, c)
	if err != nil {
		return nil, err
	}
	p, err := lodger(in)
	if err == nil && s.orphan {
		p.forget = in.Leave
	}
	return p, err
}

// paths are what it opens by name.
func (l *launch) paths() []vmm.Path {
	c := l.config
	var list []vmm.Path
	if len(c.State) == 0 {
		list = append(list, vmm.Path{Name: c.Kernel}, vmm.Path{Name: c.Initramfs})
	}
	for i, d := range c.Drives {
		list = append(list, vmm.Path{Name: d.Path, As: inside(driveName(i)), Write: !d.ReadOnly})
	}
	return list
}

// lodger is a process that a Spawner has started or found.
func lodger(of vmm.Process) (*process, error) {
	in, ok := of.(vmm.Furnished)
	if !ok {
		of.Kill()
		return nil, dayfly.Errorf(dayfly.Unavailable, "firecracker cannot live where it is to: nothing can be brought there")
	}
	return &process{
		pid: of.PID(), done: of.Done(), signal: of.Kill, forget: func() {},
		state: of.State, cause: of.Err, inside: in,
	}, nil
}

// view describes what Firecracker has by a name in its directory.
func (m *machine) view(name string) (os.FileInfo, error) {
	f, err := m.proc.inside.Look(inside(name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Stat()
}
