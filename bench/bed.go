package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/dayfly/dayfly/undo"
)

// bed is the state directory that all is measured in: the images and kernels of
// the one that was named, and nothing else of it. What is measured is then the
// same however long that has been in use, and nothing is left in it.
type bed struct {
	options
	dir   string
	serve []string // flags of its servers
}

func newBed(o options, back *undo.Stack) (bed, error) {
	state, err := filepath.Abs(o.state)
	if err != nil {
		return bed{}, err
	}
	// On the file system of the state, as disks and generations will be.
	dir, err := os.MkdirTemp(state, ".bench-")
	if err != nil {
		return bed{}, err
	}
	back.Push("bench directory", func(context.Context) error { return os.RemoveAll(dir) })
	for _, name := range []string{"images", "kernels"} {
		if err := os.Symlink(filepath.Join(state, name), filepath.Join(dir, name)); err != nil {
			return bed{}, fmt.Errorf("bench directory: %w", err)
		}
	}
	return bed{options: o, dir: dir}, nil
}
