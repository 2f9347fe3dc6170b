package control_test

import (
	"context"
	"math/rand/v2"
	"sync"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/store"
)

// fuse stands between a Control and the world, and blows: from then on nothing
// that the Control does has any effect, as if its process had been killed, just
// before or just after the last call.
type fuse struct {
	mu    sync.Mutex
	left  int // calls until it blows; below 0: it does not
	blown bool
	rng   *rand.Rand
}

var errDead = dayfly.Errorf(dayfly.Unavailable, "the process is dead")

func (f *fuse) dead() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.blown
}

// pass does a call, unless the process is dead, and then says whether it is.
func (f *fuse) pass(do func() error) error {
	f.mu.Lock()
	if f.blown {
		f.mu.Unlock()
		return errDead
	}
	if f.left == 0 {
		f.blown = true
	}
	f.left--
	last, before := f.blown, f.rng.IntN(2) == 0
	f.mu.Unlock()
	if last && before {
		return errDead
	}
	err := do()
	if f.dead() {
		return errDead
	}
	return err
}

type fusedStore struct {
	*store.Store
	f *fuse
}

func (s fusedStore) Create(ctx context.Context, c store.Creation) (recs []store.Record, again bool, err error) {
	err = s.f.pass(func() error { recs, again, err = s.Store.Create(ctx, c); return err })
	return recs, again, err
}

func (s fusedStore) Update(ctx context.Context, c store.Change) (r store.Record, err error) {
	err = s.f.pass(func() error { r, err = s.Store.Update(ctx, c); return err })
	return r, err
}

func (s fusedStore) Forget(ctx context.Context, namespace, key string) error {
	return s.f.pass(func() error { return s.Store.Forget(ctx, namespace, key) })
}

func (s fusedStore) Acknowledge(ctx context.Context, once store.Once, list ...dayfly.ID) error {
	return s.f.pass(func() error { return s.Store.Acknowledge(ctx, once, list...) })
}

func (s fusedStore) BeginSnapshot(ctx context.Context, u store.SnapshotUnderWay) error {
	return s.f.pass(func() error { return s.Store.BeginSnapshot(ctx, u) })
}

func (s fusedStore) EndSnapshot(ctx context.Context, once store.Once) error {
	return s.f.pass(func() error { return s.Store.EndSnapshot(ctx, once) })
}

func (s fusedStore) CreateSnapshot(ctx context.Context, r store.SnapshotRecord, once store.Once, ev ...dayfly.Event) error {
	return s.f.pass(func() error { return s.Store.CreateSnapshot(ctx, r, once, ev...) })
}

type fusedNode struct {
	*fakeNode
	f *fuse
}

func (n fusedNode) one(f func() (dayfly.Workspace, error)) (ws dayfly.Workspace, err error) {
	err = n.f.pass(func() error { ws, err = f(); return err })
	return ws, err
}

func (n fusedNode) CreateAdmitted(ctx context.Context, s dayfly.Spec, admit func(dayfly.Workspace) error) (dayfly.Workspace, error) {
	return n.one(func() (dayfly.Workspace, error) { return n.fakeNode.CreateAdmitted(ctx, s, admit) })
}

func (n fusedNode) CreateAs(ctx context.Context, id dayfly.ID, s dayfly.Spec) (dayfly.Workspace, error) {
	return n.one(func() (dayfly.Workspace, error) { return n.fakeNode.CreateAs(ctx, id, s) })
}

func (n fusedNode) ForkAdmitted(ctx context.Context, id dayfly.ID, count int, admit func([]dayfly.Workspace) error) (list []dayfly.Workspace, err error) {
	err = n.f.pass(func() error { list, err = n.fakeNode.ForkAdmitted(ctx, id, count, admit); return err })
	return list, err
}

func (n fusedNode) Start(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	return n.one(func() (dayfly.Workspace, error) { return n.fakeNode.Start(ctx, id) })
}

func (n fusedNode) Resume(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	return n.one(func() (dayfly.Workspace, error) { return n.fakeNode.Resume(ctx, id) })
}

func (n fusedNode) Stop(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	return n.one(func() (dayfly.Workspace, error) { return n.fakeNode.Stop(ctx, id) })
}

func (n fusedNode) Pause(ctx context.Context, id dayfly.ID) (dayfly.Workspace, error) {
	return n.one(func() (dayfly.Workspace, error) { return n.fakeNode.Pause(ctx, id) })
}

func (n fusedNode) Snapshot(ctx context.Context, id dayfly.ID, name string) (sn dayfly.Snapshot, err error) {
	err = n.f.pass(func() error { sn, err = n.fakeNode.Snapshot(ctx, id, name); return err })
	return sn, err
}

func (n fusedNode) DeleteSnapshot(ctx context.Context, ref string) error {
	return n.f.pass(func() error { return n.fakeNode.DeleteSnapshot(ctx, ref) })
}

func (n fusedNode) Delete(ctx context.Context, id dayfly.ID) error {
	return n.f.pass(func() error { return n.fakeNode.Delete(ctx, id) })
}

// awayStore refuses everything while it is away.
type awayStore struct {
	*store.Store
	mu   sync.Mutex
	gone bool
	hung bool // Updates wait for the end of their context
}

func (s *awayStore) hang(hung bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hung = hung
}

func (s *awayStore) set(gone bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = gone
}

func (s *awayStore) err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return dayfly.Errorf(dayfly.Unavailable, "the database does not answer")
	}
	return nil
}

func (s *awayStore) Create(ctx context.Context, c store.Creation) ([]store.Record, bool, error) {
	if err := s.err(); err != nil {
		return nil, false, err
	}
	return s.Store.Create(ctx, c)
}

func (s *awayStore) Update(ctx context.Context, c store.Change) (store.Record, error) {
	s.mu.Lock()
	hung := s.hung
	s.mu.Unlock()
	if hung {
		<-ctx.Done()
		return store.Record{}, dayfly.Errorf(dayfly.Unavailable, "the database is locked")
	}
	if err := s.err(); err != nil {
		return store.Record{}, err
	}
	return s.Store.Update(ctx, c)
}

func (s *awayStore) Namespace(ctx context.Context, name string) (dayfly.Namespace, error) {
	if err := s.err(); err != nil {
		return dayfly.Namespace{}, err
	}
	return s.Store.Namespace(ctx, name)
}

func (s *awayStore) Ping(ctx context.Context) error {
	if err := s.err(); err != nil {
		return err
	}
	return s.Store.Ping(ctx)
}

func (s *awayStore) Each(ctx context.Context, f func(store.Record) error) error {
	if err := s.err(); err != nil {
		return err
	}
	return s.Store.Each(ctx, f)
}

func (s *awayStore) Key(ctx context.Context, id string) (store.KeyRecord, error) {
	if err := s.err(); err != nil {
		return store.KeyRecord{}, err
	}
	return s.Store.Key(ctx, id)
}

func (s *awayStore) AddAudit(ctx context.Context, e ...dayfly.AuditEntry) error {
	if err := s.err(); err != nil {
		return err
	}
	return s.Store.AddAudit(ctx, e...)
}
