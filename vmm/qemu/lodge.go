package qemu

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/dayfly/dayfly/vmm"
)

// lodge starts QEMU where a Spawner puts it, which may be a place with none of
// our directories.
func (s spec) lodge(ctx context.Context, in vmm.Spawner) (*process, error) {
	c := vmm.Command{
		Program: s.program, Args: append([]string{s.program.Path}, s.args...), Env: environment,
		Files: s.files, Paths: s.paths, Orphan: s.orphan,
	}
	if len(s.files) > memoryFD-monitorFD {
		c.Reopened = memoryFD
	}
	for _, n := range s.nics {
		c.TAPs = append(c.TAPs, n.TAP)
	}
	if s.orphan {
		words, err := newWords()
		if err != nil {
			return nil, err
		}
		c.Err = words
		lodged, err := in.Spawn(ctx, c)
		if err != nil {
			return nil, joinClose(err, words)
		}
		p := lodger(lodged)
		p.words = func() []byte { return readWords(words) }
		p.forget = lodged.Leave
		return p, nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("qemu: stderr: %w", err)
	}
	c.Err = w
	lodged, err := in.Spawn(ctx, c)
	_ = w.Close()
	if err != nil {
		return nil, joinClose(err, r)
	}
	p, tail, done := lodger(lodged), vmm.NewTail(maxWords), make(chan struct{})
	p.words, p.done = tail.Bytes, done
	go func() {
		defer close(done)
		_, _ = io.Copy(tail, r) // until it is gone: nobody else has the other end
		_ = r.Close()
		<-lodged.Done()
	}()
	return p, nil
}

// lodger is a process that a Spawner has started or found.
func lodger(of vmm.Process) *process {
	return &process{
		pid: of.PID(), done: of.Done(), signal: of.Kill,
		how: func() string {
			if err := of.Err(); err != nil {
				return err.Error()
			}
			return "exit status 0"
		},
	}
}
