package firecracker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm"
)

// Save returns the state of the machine but for its RAM. Firecracker cannot save
// the one without the other. So the memory is to go to a file that takes not a
// byte: the state is in its own by then, and that the rest fails has no effect
// on the machine. A release that does it the other way around is asked again,
// with a file that takes all and is thrown away. The RAM of a machine whose
// memory is shared is what its file gets here.
//
// The guest's vsock connections end with it, of the machine that goes on too:
// the channel is to be opened again.
func (m *machine) Save(ctx context.Context) ([]byte, error) {
	m.blocks.Lock()
	defer m.blocks.Unlock()
	if err := m.mustBePaused(ctx); err != nil {
		return nil, err
	}
	if m.shared {
		if err := m.snapshot(ctx, memoryFD); err != nil {
			return nil, err
		}
		if err := punchZeros(m.base); err != nil {
			return nil, fmt.Errorf("firecracker: memory: %w", err)
		}
		return m.takeState()
	}
	err := m.snapshot(ctx, refuseFD)
	var refused *fault
	if errors.As(err, &refused) && strings.Contains(refused.message, "memory") {
		if state, err := m.takeState(); err == nil {
			return state, nil
		}
	}
	if err != nil && refused == nil {
		return nil, err
	}
	err = m.snapshot(ctx, spareFD)
	err = errors.Join(err, m.spare.Truncate(0))
	if err != nil {
		return nil, err
	}
	return m.takeState()
}

func (m *machine) mustBePaused(ctx context.Context) error {
	var is instanceInfo
	if err := m.ask(ctx, request{http.MethodGet, "/", nil, false}, &is); err != nil {
		return err
	}
	if is.State != statePaused {
		return dayfly.Errorf(dayfly.Conflict, "the machine runs: pause it first")
	}
	return nil
}

func (m *machine) snapshot(ctx context.Context, memory int) error {
	return m.ask(ctx, request{http.MethodPut, "/snapshot/create", snapshotCreate{"Full", fdPath(stateFD), fdPath(memory)}, true}, nil)
}

// takeState returns what Firecracker wrote, and keeps none of it.
func (m *machine) takeState() ([]byte, error) {
	state, err := io.ReadAll(io.NewSectionReader(m.state, 0, vmm.MaxState+1))
	if err == nil && (len(state) == 0 || len(state) > vmm.MaxState) {
		err = fmt.Errorf("it has %d bytes", len(state))
	}
	err = errors.Join(err, m.state.Truncate(0))
	if err != nil {
		return nil, fmt.Errorf("firecracker: saved state: %w", err)
	}
	return state, nil
}

// punchZeros gives back the room of a file's pages that hold nothing: Firecracker
// writes those too that the guest has never touched.
func punchZeros(f *os.File) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	page, zero := make([]byte, vmm.PageSize), make([]byte, vmm.PageSize)
	data, err := vmm.DataExtents(f, fi.Size())
	if err != nil {
		return err
	}
	for _, e := range data {
		from := int64(-1) // where the present run of zeros began
		for at := e.Off; at < e.Off+e.Len; at += vmm.PageSize {
			if _, err := f.ReadAt(page, at); err != nil {
				return err
			}
			switch empty := bytes.Equal(page, zero); {
			case empty && from < 0:
				from = at
			case !empty && from >= 0:
				if err := punch(f, from, at); err != nil {
					return err
				}
				from = -1
			}
		}
		if from >= 0 {
			if err := punch(f, from, e.Off+e.Len); err != nil {
				return err
			}
		}
	}
	return nil
}

func punch(f *os.File, from, to int64) error {
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, from, to-from)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil // the file system has no holes
	}
	return err
}
