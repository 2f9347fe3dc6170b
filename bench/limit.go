package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/dayfly/dayfly/jail"
	"github.com/dayfly/dayfly/undo"
)

// ioLimit is a program in a jail that writes to the disk of the state directory,
// past the page cache: version 1 of control groups bounds nothing else.
type ioLimit struct {
	pool *jail.Pool
	dir  string
}

const (
	ioRate  = 16 << 20 // bytes a second that the jail gives
	ioBytes = 16       // MiB that are written
)

// newIOLimit returns nil where this host cannot bound traffic with that disk.
func newIOLimit(b bed, back *undo.Stack) (*ioLimit, error) {
	self, err := filepath.Abs(b.dayfly)
	if err != nil {
		return nil, err
	}
	pool, err := jail.Open(jail.Options{Self: self, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	back.Push("jails", func(context.Context) error { return pool.Close() })
	l := &ioLimit{pool, filepath.Join(b.dir, "io")}
	if err := os.Mkdir(l.dir, 0o700); err != nil {
		return nil, err
	}
	back.Push("io directory", func(context.Context) error { return os.RemoveAll(l.dir) })
	if slices.Contains(pool.Lacks(), "io") {
		fmt.Fprintln(os.Stderr, "limit-io is not measured: this host has no io controller")
		return nil, nil
	}
	return l, nil
}

// once is how much of its limit a program had that writes without end.
func (l *ioLimit) once(ctx context.Context) (_ notes, err error) {
	j, err := l.pool.Take(ctx, jail.Spec{
		Shape:  jail.Shape{Program: "/usr/bin/dd"},
		Files:  []jail.File{{Path: l.dir, Write: true, Own: true}},
		Limits: jail.Limits{IO: []jail.IO{{Path: l.dir, WriteBytes: ioRate}}},
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, j.Close()) }()
	began := time.Now()
	p, err := j.Start(ctx, jail.Command{Args: []string{
		"dd", "if=/dev/urandom", "of=" + filepath.Join(l.dir, "file"), "bs=1M", "count=" + strconv.Itoa(ioBytes), "iflag=fullblock", "oflag=direct",
	}})
	if err != nil {
		return nil, err
	}
	exit := p.Exit()
	rate := float64(ioBytes<<20) / time.Since(began).Seconds()
	return notes{"limit-io": {rate / ioRate}}, exit.Err()
}
