// Command dayfly boots a full Linux microVM per task. It is the command line,
// written with the public client alone, and the server it talks to: one given
// with --host, or one of its own inside this process.
//
// It is the only place that reads flags, files and the environment, and that
// puts the packages of a host together.
package main

import (
	"os"
	"time"

	"github.com/dayfly/dayfly/jail"
)

// began is the zero of every time that a user is told.
var began = time.Now()

func main() {
	jail.Enter() // does not return in the first process of a jail
	os.Exit(newApp().run(os.Args[1:]))
}
