package needs

import (
	"os"
	"os/signal"
	"syscall"
)

// HangUps has SIGHUP reach the children of this process, also where nohup keeps it
// from this one: what is ignored is ignored by all who are started.
func HangUps() {
	if signal.Ignored(syscall.SIGHUP) {
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	}
}
