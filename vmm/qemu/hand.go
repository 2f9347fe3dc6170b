package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// QEMU opens by name only what is there when it starts. All that comes later it
// is handed as descriptors, in sets that it opens as if they were files: it may
// live where our files have no names, or where it has no right to them.

func setName(id int) string { return fmt.Sprintf("/dev/fdset/%d", id) }

// hand gives QEMU descriptors as a new set, of which it takes the one that is
// open as it would open the file itself. Opaque is kept with it, to be asked for.
func (m *machine) hand(ctx context.Context, opaque string, files ...*os.File) (set int, err error) {
	set = -1
	for _, f := range files {
		args := map[string]any{"opaque": opaque}
		if set >= 0 {
			args["fdset-id"] = set
		}
		var to struct {
			Set int `json:"fdset-id"`
		}
		if err := m.ask(ctx, "add-fd", withFile{args, f}, &to); err != nil {
			if set >= 0 {
				err = errors.Join(err, m.takeBack(ctx, set))
			}
			return -1, err
		}
		set = to.Set
	}
	return set, nil
}

// handPath opens a file for QEMU. One that is to be written it gets for reading,
// too: it opens a layer again when there is one above it.
func (m *machine) handPath(ctx context.Context, path string, readOnly bool) (set int, err error) {
	ro, err := os.Open(path)
	if err != nil {
		return -1, fmt.Errorf("qemu: %w", err)
	}
	defer ro.Close()
	if readOnly {
		return m.hand(ctx, path, ro)
	}
	rw, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return -1, fmt.Errorf("qemu: %w", err)
	}
	defer rw.Close()
	return m.hand(ctx, path, rw, ro)
}

// takeBack closes a set, but for what of it is in use.
func (m *machine) takeBack(ctx context.Context, set int) error {
	return m.ask(context.WithoutCancel(ctx), "remove-fd", map[string]int{"fdset-id": set}, nil)
}

// fdSets are the paths of the files that QEMU was handed, by their sets.
func (m *machine) fdSets(ctx context.Context) (map[int]string, error) {
	var sets []struct {
		ID  int `json:"fdset-id"`
		FDs []struct {
			Opaque string `json:"opaque"`
		} `json:"fds"`
	}
	if err := m.ask(ctx, "query-fdsets", nil, &sets); err != nil {
		return nil, err
	}
	paths := map[int]string{}
	for _, s := range sets {
		for _, f := range s.FDs {
			paths[s.ID] = f.Opaque
		}
	}
	return paths, nil
}
