package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/store"
	"github.com/dayfly/dayfly/undo"
)

// The sizes of what a server is given to do.
const (
	records   = 10_000 // workspaces that it remembers
	usualPage = 100
	smallDisk = 256 // MiB
)

// flights are how many creations are under way at once.
var flights = []int{1, 4, 10, 50}

// services are what a server adds to a start, and what becomes of many at once.
// The server remembers as many workspaces as it may in earnest.
func services(ctx context.Context, b bed, back *undo.Stack) ([]subject, error) {
	if err := b.remember(ctx, records); err != nil {
		return nil, err
	}
	s, err := newServer(ctx, b, 0, back)
	if err != nil {
		return nil, err
	}
	list := []subject{
		{"api", []string{"api", "api.start"}, prime, s.overhead},
		timed("list", 1, s.list),
	}
	for _, n := range flights {
		list = append(list, subject{flightName("create", n), []string{flightName("create", n), flightName("rate", n)}, 1, s.burst(n)})
	}
	return list, nil
}

func flightName(kind string, n int) string { return kind + "." + strconv.Itoa(n) }

// lost is what a server says of workspaces that its host has nothing of.
const lost = "the host has nothing of it any more: delete it"

// remember puts records of such workspaces into the database that the server will
// open.
func (b bed) remember(ctx context.Context, n int) error {
	st, err := store.Open(ctx, store.Options{URL: "sqlite://" + filepath.Join(b.dir, "dayfly.db")})
	if err != nil {
		return err
	}
	const batch = 500
	for i := 0; i < n && err == nil; i += batch {
		var c store.Creation
		for j := range batch {
			spec, bad := dayfly.Spec{Image: "base", Name: fmt.Sprintf("record-%d", i+j), DiskMiB: smallDisk, Keep: true}.Normal()
			err = errors.Join(err, bad)
			c.Records = append(c.Records, store.Record{Durable: true, Workspace: dayfly.Workspace{
				ID: dayfly.NewID(), Name: spec.Name, Namespace: dayfly.DefaultNamespace, State: dayfly.Failed, Reason: lost, Spec: spec,
				StartKind: dayfly.Restore, CreatedAt: time.Now().Add(-time.Hour),
			}})
		}
		if err == nil {
			_, _, err = st.Create(ctx, c)
		}
	}
	return errors.Join(err, st.Close())
}

// overhead is what a creation takes beside the stages of the start: the request
// and its answer, who asks, whether there is room, what must be remembered.
func (s *server) overhead(ctx context.Context) (notes, error) {
	from := time.Now()
	ws, err := s.Workspaces.Create(ctx, dayfly.Spec{Image: "base", DiskMiB: smallDisk})
	took := ms(time.Since(from))
	if err != nil {
		return nil, err
	}
	var stages float64
	for _, st := range ws.Timeline {
		if st.Within == "" {
			stages += st.Took
		}
	}
	return notes{"api": {took - stages}, "api.start": {stages}}, s.Workspaces.Delete(ctx, ws.ID)
}

// list is a page of all there are.
func (s *server) list(ctx context.Context) (time.Duration, error) {
	from := time.Now()
	p, err := s.Workspaces.Page(ctx, dayfly.Query{Limit: usualPage})
	if err == nil && len(p.Workspaces) != usualPage {
		err = fmt.Errorf("a page has %d workspaces", len(p.Workspaces))
	}
	return time.Since(from), err
}

// burst is n creations at once, and how many came to be in a second. None may
// fail.
func (s *server) burst(n int) func(context.Context) (notes, error) {
	return func(ctx context.Context) (notes, error) {
		took, ids, errs := make([]float64, n), make([]dayfly.ID, n), make([]error, n)
		from := time.Now()
		all(n, func(i int) {
			var ws dayfly.Workspace
			ws, errs[i] = s.Workspaces.Create(ctx, dayfly.Spec{Image: "base", DiskMiB: smallDisk})
			took[i], ids[i] = ms(time.Since(from)), ws.ID
		})
		rate := float64(n) / time.Since(from).Seconds()
		all(n, func(i int) {
			if errs[i] == nil {
				errs[i] = s.Workspaces.Delete(ctx, ids[i])
			}
		})
		return notes{flightName("create", n): took, flightName("rate", n): {rate}}, errors.Join(errs...)
	}
}

// all does something n times at once.
func all(n int, do func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { do(i) })
	}
	wg.Wait()
}
