package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
)

// ofSnapshot are the flags of run that say what a snapshot has decided already.
var ofSnapshot = []string{"cpus", "memory", "disk", "accel", "pull"}

// source is a cobra.PositionalArgs: there must be an image or a snapshot.
func (f *runFlags) source(c *cobra.Command, args []string) error {
	switch {
	case !c.Flags().Changed("snapshot"):
		return atLeast(1, "name an image, such as base, or a snapshot with --snapshot")(c, args)
	case f.snapshot == "": // not the image's name for a command: $UNSET would run another machine than meant
		return wrongUsage(c, errors.New("--snapshot is empty: name a snapshot (see: dayfly snapshot ls)"))
	}
	return nil
}

// split takes the arguments apart into an image, if there is one, and a command.
func (f *runFlags) split(args []string) (image string, command []string) {
	if f.snapshot != "" {
		return "", args
	}
	return args[0], afterDashes(args[1:])
}

// fromSnapshot leaves to the snapshot what it has decided, if there is one, and
// refuses flags that say otherwise.
func (f *runFlags) fromSnapshot(c *cobra.Command, spec *dayfly.Spec) error {
	if f.snapshot == "" {
		return nil
	}
	for _, name := range ofSnapshot {
		if c.Flags().Changed(name) {
			return dayfly.Errorf(dayfly.Invalid, "--%s and --snapshot are both given: a snapshot brings its own machine, so leave --%[1]s out", name)
		}
	}
	spec.Snapshot, spec.CPUs, spec.MemoryMiB, spec.DiskMiB, spec.Accel = f.snapshot, 0, 0, 0, ""
	return nil
}

// completeRun offers images where one belongs.
func (a *app) completeRun(c *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if c.Flags().Changed("snapshot") {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return a.completeImages(c, args, typed)
}
