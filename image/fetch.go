package image

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/dayfly/dayfly"
)

const (
	fetchAtOnce  = 3 // as the engines do; more makes registries throttle
	fetchTries   = 4
	fetchBackoff = 250 * time.Millisecond // doubled after every try
)

// fetched is content on its way from a registry into a scratch directory: open
// waits for a blob, and its last opener gets a file without a name.
type fetched struct {
	blobs map[v1.Hash]*fetching
}

type fetching struct {
	done chan struct{} // closed when file or err is set
	file string
	err  error
	uses int // how many layers have this blob and have not opened it
}

// fetch begins to download layers, in order, a few at a time. The function it
// returns ends that and waits for it.
func (s *Store) fetch(ctx context.Context, from remoteContent, layers []v1.Descriptor, t *scratch, report *reporter) (fetched, func()) {
	ctx, cancel := context.WithCancel(ctx)
	to := fetched{map[v1.Hash]*fetching{}}
	var work errgroup.Group
	work.SetLimit(fetchAtOnce)
	var todo []func()
	for _, desc := range layers {
		if f := to.blobs[desc.Digest]; f != nil {
			f.uses++ // some images have a layer twice
			continue
		}
		f := &fetching{uses: 1, done: make(chan struct{}), file: t.path("blob-" + desc.Digest.Hex)}
		to.blobs[desc.Digest] = f
		todo = append(todo, func() {
			defer close(f.done)
			f.err = s.download(ctx, from, desc, f.file, report)
		})
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for _, f := range todo {
			work.Go(func() error { f(); return nil })
		}
		_ = work.Wait()
	}()
	return to, func() { cancel(); <-ended }
}

func (f fetched) open(ctx context.Context, desc v1.Descriptor) (io.ReadCloser, error) {
	b := f.blobs[desc.Digest]
	select {
	case <-b.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if b.err != nil {
		return nil, b.err
	}
	file, err := os.Open(b.file)
	if err != nil {
		return nil, err
	}
	if b.uses--; b.uses > 0 {
		return file, nil
	}
	return file, os.Remove(b.file)
}

// download writes one verified blob to a file. A blob that breaks off is asked
// for again; one that is wrong is not, nor one the registry refuses, which the
// client library has asked for more than once already.
func (s *Store) download(ctx context.Context, from remoteContent, desc v1.Descriptor, file string, report *reporter) error {
	if desc.Size > s.limits.LayerBytes {
		return exceeded("blob "+short(desc.Digest), "layer bytes", desc.Size, s.limits.LayerBytes)
	}
	wait := fetchBackoff
	for try := 1; ; try++ {
		err := s.downloadOnce(ctx, from, desc, file, report)
		var cut *truncated
		if !errors.As(err, &cut) {
			return err
		}
		if try == fetchTries {
			return dayfly.Errorf(dayfly.Unavailable, "%w, %d times: the registry or the network breaks off; try again later", cut, try)
		}
		s.log.Debug("download broke off", "blob", desc.Digest.String(), "try", try, "err", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
			wait *= 2
		}
	}
}

func (s *Store) downloadOnce(ctx context.Context, from remoteContent, desc v1.Descriptor, file string, report *reporter) (err error) {
	rc, err := from.open(ctx, desc)
	if err != nil {
		return err
	}
	defer rc.Close()
	blob, err := verify(rc, desc)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, &watched{ctx.Err, blob, report.step("pull "+short(desc.Digest), desc.Size)})
	return errors.Join(err, f.Close())
}

func readCloser(b []byte) io.ReadCloser { return io.NopCloser(bytes.NewReader(b)) }
