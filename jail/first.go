package jail

import (
	"errors"
	"io"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// firstName is what the first process of a jail is called until it is the VMM.
const firstName = "dayfly-jail"

// controlFD is the first process's end of the line to the jail's owner.
const controlFD = 3

// Enter makes this process the first one of a jail if it was started as such,
// and then does not return. A program that opens a Pool calls it before
// anything else in main.
func Enter() {
	if len(os.Args) != 1 || os.Args[0] != firstName {
		return
	}
	// Rights, limits and filters belong to threads, and of this process's only
	// the one that turns into the VMM goes on.
	runtime.LockOSThread()
	if err := first(); err != nil && !errors.Is(err, io.EOF) {
		_ = send(controlFD, answer{Error: err.Error()}, nil)
	}
	os.Exit(1)
}

// first sets the jail up, waits for what it is to run, and becomes that. An end
// of file says that the owner is gone or needs the jail no more.
func first() error {
	var s setup
	if _, err := receive(controlFD, &s); err != nil {
		return err
	}
	if err := s.build(); err != nil {
		return err
	}
	if err := send(controlFD, answer{}, nil); err != nil {
		return err
	}
	var c start
	fds, err := receive(controlFD, &c)
	if err != nil {
		return err
	}
	return c.become(s.UID, fds)
}

// step is one of those that lead into the jail; its name is in the error.
type step struct {
	name string
	do   func() error
}

func run(steps []step) error {
	for _, s := range steps {
		if err := s.do(); err != nil {
			return &stepError{s.name, err}
		}
	}
	return nil
}

type stepError struct {
	name string
	err  error
}

func (e *stepError) Error() string { return e.name + ": " + e.err.Error() }
func (e *stepError) Unwrap() error { return e.err }

// become ends as the program. Until then every step takes something away.
func (c *start) become(uid int, fds []int) error {
	before := c.Files // the descriptors ahead of the mounts
	if c.Network {
		before++
	}
	if len(fds) != before+len(c.Mounts) {
		return errors.New("descriptors got lost on the way")
	}
	p := &plunge{start: c, uid: uid, network: -1}
	err := run([]step{
		{"descriptors", func() error { return p.gather(fds) }},
		{"files", p.attach},
		{"network", p.connect},
		{"room", p.furnish},
		{"root", closeRoot},
		{"control group namespace", func() error { return unix.Unshare(unix.CLONE_NEWCGROUP) }},
		{"directory", func() error { return unix.Chdir(c.Dir) }},
		{"limits", c.bound},
		{"capabilities", dropBounding},
		{"user", func() error { return switchUser(uid) }},
		{"capabilities", dropCapabilities},
		{"access", c.reach},
		{"no new privileges", func() error { return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }},
		{"end with the owner", p.bindToOwner},
		{"descriptors", p.arrange},
	})
	if err != nil {
		return err
	}
	return p.exec()
}
