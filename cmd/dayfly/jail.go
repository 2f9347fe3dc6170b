package main

import (
	"os"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/jail"
)

// Whether machines live in jails, for --jail.
const (
	jailOn  = "on"
	jailOff = "off"
)

// jailOf is what the server inside a command does. Only root can make jails:
// where a user other than root has not said what it wants, its machines have
// its own rights, as all that it starts has.
func jailOf(want string) (string, error) {
	switch want {
	case jailOn, jailOff:
		return want, nil
	case "":
		if os.Geteuid() != 0 {
			return jailOff, nil
		}
		return jailOn, nil
	}
	return "", dayfly.Errorf(dayfly.Invalid, "jail is %q: use on or off", want)
}

// jails are those of this host, or nil. That there are none is said aloud.
func (h *host) jails() *jail.Options {
	if h.jail != jailOff {
		return &jail.Options{Log: h.log}
	}
	h.log.Warn("jails are off: a guest that breaks out of its machine has all the rights of this user", "uid", os.Geteuid())
	return nil
}
