package main

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/disk"
	"github.com/dayfly/dayfly/keyring"
	"github.com/dayfly/dayfly/undo"
)

// Sizes of disks, in MiB.
const (
	usualDisk = 2 << 10
	largeDisk = 200 << 10
	otherDisk = 3 << 10 // for claims of what was not started last
	firstDisk = 4 << 10 // of those for which nothing is prepared: each is used once
)

// prime is how many starts of one kind it takes until its template is there and
// has been used: the second makes it.
const prime = 3

// starts are the ways to start a workspace, beside what they are compared with.
func starts(ctx context.Context, b bed, back *undo.Stack) ([]subject, error) {
	one := func(s start) func(context.Context) (time.Duration, error) {
		return func(ctx context.Context) (time.Duration, error) { return b.run(ctx, s) }
	}
	list := []subject{timed("run", 1, one(start{kind: dayfly.Cold, diskMiB: usualDisk}))}
	if b.wants(partCold) {
		list = append(list, timed("run200", 1, one(start{kind: dayfly.Cold, diskMiB: largeDisk})))
	}
	if b.wants(partRestore) {
		list = append(list,
			timed("restore", prime, one(start{kind: dayfly.Restore, prepared: true, diskMiB: usualDisk})),
			timed("restore-any", 1, b.restoreAny()),
			timed("restore200", prime, one(start{kind: dayfly.Restore, prepared: true, diskMiB: largeDisk})))
		if err := b.makeTemplates(ctx, usualDisk, largeDisk); err != nil {
			return nil, err
		}
	}
	if b.wants(partClaim) {
		claims, err := newClaims(ctx, b, back)
		if err != nil {
			return nil, err
		}
		list = append(list, timed("claim", 1, claims.same), timed("claim-any", 1, claims.other))
	}
	bare, err := newBare(ctx, b, back)
	if err != nil {
		return nil, err
	}
	container, err := newContainer(ctx, b, back)
	if err != nil {
		return nil, err
	}
	return append(list, timed("bare", 1, bare.once), timed("container", 1, container.once)), nil
}

// makeTemplates starts what begins from the base template the first time and
// from one of its own the second.
func (b bed) makeTemplates(ctx context.Context, disks ...int) error {
	for _, mib := range disks {
		if _, err := b.run(ctx, start{kind: dayfly.Restore, diskMiB: mib}); err != nil {
			return err
		}
	}
	return nil
}

// restoreAny starts with another size of disk each time, for which there is no
// template then: that is made when one is used again. The empty file system of
// that size is made before, as it would be for any usual one.
func (b bed) restoreAny() func(context.Context) (time.Duration, error) {
	next := firstDisk
	return func(ctx context.Context) (time.Duration, error) {
		next++
		if err := b.makeSeed(ctx, next); err != nil {
			return 0, err
		}
		return b.run(ctx, start{kind: dayfly.Restore, diskMiB: next})
	}
}

// makeSeed has the empty file system for disks of one size kept, by making a
// disk that nobody uses.
func (b bed) makeSeed(ctx context.Context, diskMiB int) error {
	path := filepath.Join(b.dir, "disk")
	key := new(keyring.Key)
	_, _ = rand.Read(key[:])
	err := disk.Create(ctx, path, int64(diskMiB)<<20, key, disk.Options{Seeds: filepath.Join(b.dir, "seeds")})
	return errors.Join(err, os.RemoveAll(path))
}

// claims are starts by a server with standby machines: one that is empty, and
// one that is prepared for what was started last.
type claims struct {
	bed    bed
	server *server
	last   int // size of the disk of what was started last
}

const standby = 2

func newClaims(ctx context.Context, b bed, back *undo.Stack) (*claims, error) {
	s, err := newServer(ctx, b, standby, back)
	if err != nil {
		return nil, err
	}
	c := &claims{bed: b, server: s}
	if err := s.filled(ctx, standby); err != nil { // two that are empty
		return nil, err
	}
	if _, err := c.claim(ctx, otherDisk, false, 1); err != nil {
		return nil, err
	}
	_, err = c.other(ctx)
	return c, err
}

// same starts what was started last: the prepared machine is claimed.
func (c *claims) same(ctx context.Context) (time.Duration, error) {
	return c.claim(ctx, c.last, true, 1)
}

// other starts what was not started last: the empty machine is claimed, and the
// prepared one, which nobody wants any more, is replaced as well.
func (c *claims) other(ctx context.Context) (time.Duration, error) {
	mib := usualDisk
	if c.last == usualDisk {
		mib = otherDisk
	}
	return c.claim(ctx, mib, false, standby)
}

// claim returns when the server holds as many machines as before again: neither
// the next sample nor those of others are taken beside that work.
func (c *claims) claim(ctx context.Context, diskMiB int, prepared bool, replaced int) (time.Duration, error) {
	c.server.mark()
	c.last = diskMiB
	took, err := c.bed.run(ctx, start{kind: dayfly.Claim, prepared: prepared, diskMiB: diskMiB, host: c.server.host})
	return took, errors.Join(err, c.server.filled(ctx, replaced))
}
