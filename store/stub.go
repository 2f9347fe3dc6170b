package store

import (
	"context"
	"time"

	"github.com/dayfly/dayfly"
)

// Store is the memory of a server.
type Store struct{}

var errTodo = dayfly.Errorf(dayfly.Unavailable, "the store is not built yet")

func Open(ctx context.Context, o Options) (*Store, error)      { return nil, errTodo }
func (s *Store) Close() error                                  { return errTodo }
func (s *Store) Ping(ctx context.Context) error                { return errTodo }
func (s *Store) Engine() string                                { return "sqlite" }
func (s *Store) Backup(ctx context.Context, path string) error { return errTodo }
func (s *Store) Create(ctx context.Context, c Creation) ([]Record, bool, error) {
	return nil, false, errTodo
}
func (s *Store) Update(ctx context.Context, c Change) (Record, error)  { return Record{}, errTodo }
func (s *Store) Get(ctx context.Context, id dayfly.ID) (Record, error) { return Record{}, errTodo }
func (s *Store) Find(ctx context.Context, namespace, ref string) (Record, error) {
	return Record{}, errTodo
}
func (s *Store) List(ctx context.Context, q dayfly.Query) (Page, error)        { return Page{}, errTodo }
func (s *Store) Each(ctx context.Context, f func(Record) error) error          { return errTodo }
func (s *Store) Counts(ctx context.Context) (map[dayfly.State]int, error)      { return nil, errTodo }
func (s *Store) Forget(ctx context.Context, namespace, key string) error       { return errTodo }
func (s *Store) CreateNamespace(ctx context.Context, n dayfly.Namespace) error { return errTodo }
func (s *Store) Namespace(ctx context.Context, name string) (dayfly.Namespace, error) {
	return dayfly.Namespace{}, errTodo
}
func (s *Store) Namespaces(ctx context.Context) ([]dayfly.Namespace, error)    { return nil, errTodo }
func (s *Store) UpdateNamespace(ctx context.Context, n dayfly.Namespace) error { return errTodo }
func (s *Store) DeleteNamespace(ctx context.Context, name string) error        { return errTodo }
func (s *Store) Quota(ctx context.Context, name string) (dayfly.Quota, error) {
	return dayfly.Quota{}, errTodo
}
func (s *Store) CreateKey(ctx context.Context, k KeyRecord) error      { return errTodo }
func (s *Store) Key(ctx context.Context, id string) (KeyRecord, error) { return KeyRecord{}, errTodo }
func (s *Store) Keys(ctx context.Context, namespace string) ([]dayfly.Key, error) {
	return nil, errTodo
}
func (s *Store) RevokeKey(ctx context.Context, id string, at time.Time) error   { return errTodo }
func (s *Store) TouchKeys(ctx context.Context, used map[string]time.Time) error { return errTodo }
func (s *Store) HasAdminKey(ctx context.Context) (bool, error)                  { return false, errTodo }
func (s *Store) CreateSnapshot(ctx context.Context, r SnapshotRecord, ev ...dayfly.Event) error {
	return errTodo
}
func (s *Store) Snapshot(ctx context.Context, namespace, ref string) (SnapshotRecord, error) {
	return SnapshotRecord{}, errTodo
}
func (s *Store) Snapshots(ctx context.Context, namespace string) ([]SnapshotRecord, error) {
	return nil, errTodo
}
func (s *Store) DeleteSnapshot(ctx context.Context, id dayfly.ID, ev ...dayfly.Event) error {
	return errTodo
}
func (s *Store) Events(ctx context.Context, q dayfly.EventQuery) ([]dayfly.Event, error) {
	return nil, errTodo
}
func (s *Store) LastEvent(ctx context.Context) (int64, error)              { return 0, errTodo }
func (s *Store) CreateWebhook(ctx context.Context, w dayfly.Webhook) error { return errTodo }
func (s *Store) Webhook(ctx context.Context, id string) (dayfly.Webhook, error) {
	return dayfly.Webhook{}, errTodo
}
func (s *Store) Webhooks(ctx context.Context, namespace string) ([]dayfly.Webhook, error) {
	return nil, errTodo
}
func (s *Store) UpdateWebhook(ctx context.Context, w dayfly.Webhook) error { return errTodo }
func (s *Store) DeleteWebhook(ctx context.Context, id string) error        { return errTodo }
func (s *Store) Enqueue(ctx context.Context, upTo int64) (int, error)      { return 0, errTodo }
func (s *Store) DueDeliveries(ctx context.Context, now time.Time, limit int) ([]dayfly.Delivery, error) {
	return nil, errTodo
}
func (s *Store) SaveDelivery(ctx context.Context, d dayfly.Delivery) error { return errTodo }
func (s *Store) Deliveries(ctx context.Context, webhook string, limit int) ([]dayfly.Delivery, error) {
	return nil, errTodo
}
func (s *Store) AddAudit(ctx context.Context, e ...dayfly.AuditEntry) error { return errTodo }
func (s *Store) Audit(ctx context.Context, q dayfly.AuditQuery) ([]dayfly.AuditEntry, error) {
	return nil, errTodo
}
func (s *Store) Prune(ctx context.Context, before time.Time) error { return errTodo }
