package store

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/dayfly/dayfly"
)

// happen stores a workspace with one event of each type.
func happen(t testing.TB, s *Store, namespace string, types ...dayfly.EventType) {
	t.Helper()
	r := fresh(namespace)
	var events []dayfly.Event
	for _, et := range types {
		events = append(events, dayfly.Event{Type: et, Namespace: namespace, Workspace: r.ID, At: time.Now()})
	}
	_, _, err := s.Create(t.Context(), Creation{Records: []Record{r}, Events: events})
	no(t, err)
}

func seqs(events []dayfly.Event) []int64 {
	var list []int64
	for _, e := range events {
		list = append(list, e.Seq)
	}
	return list
}

// TestReaderOfOneEventHasSeenAllBelow reads while many write.
func TestReaderOfOneEventHasSeenAllBelow(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		const writers, each = 6, 20
		var all sync.WaitGroup
		for range writers {
			all.Go(func() {
				for range each {
					r := fresh("default")
					_, _, err := s.Create(t.Context(), Creation{Records: []Record{r}, Events: make([]dayfly.Event, 2)})
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		for next := int64(1); next <= 2*writers*each && !t.Failed(); {
			events, err := s.Events(t.Context(), dayfly.EventQuery{After: next - 1})
			no(t, err)
			for _, e := range events {
				if e.Seq != next {
					t.Fatalf("event %d was seen before %d", e.Seq, next)
				}
				next++
			}
		}
		all.Wait()
	})
}

func TestEventsAreSelected(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		namespace(t, s, "other", dayfly.Limits{})
		happen(t, s, "default", dayfly.WorkspaceCreated, dayfly.WorkspaceRunning)
		happen(t, s, "other", dayfly.WorkspaceCreated)
		all, err := s.Events(t.Context(), dayfly.EventQuery{})
		no(t, err)
		equal(t, seqs(all), []int64{1, 2, 3})
		for _, e := range all {
			if e.ID == "" || e.At.Location() != time.UTC {
				t.Errorf("event without id or UTC: %+v", e)
			}
		}
		for _, row := range []struct {
			q    dayfly.EventQuery
			want []int64
		}{
			{dayfly.EventQuery{Namespace: "default"}, []int64{1, 2}},
			{dayfly.EventQuery{Workspace: all[2].Workspace}, []int64{3}},
			{dayfly.EventQuery{Types: []dayfly.EventType{dayfly.WorkspaceCreated}}, []int64{1, 3}},
			{dayfly.EventQuery{After: 1, Limit: 1}, []int64{2}},
			{dayfly.EventQuery{After: 3}, nil},
		} {
			found, err := s.Events(t.Context(), row.q)
			no(t, err)
			equal(t, seqs(found), row.want)
		}
	})
}

func TestRefusedChangeLeavesNoEvent(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		r := create(t, s, fresh("default"))[0]
		events := []dayfly.Event{{Type: dayfly.WorkspaceCreated}}
		_, _, err := s.Create(t.Context(), Creation{Records: []Record{r}, Events: events})
		want(t, err, dayfly.Conflict)
		r.Revision = 9
		_, err = s.Update(t.Context(), Change{Record: r, Events: events})
		want(t, err, dayfly.Conflict)
		want(t, s.DeleteSnapshot(t.Context(), dayfly.NewID(), events...), dayfly.NotFound)
		seq, err := s.LastEvent(t.Context())
		no(t, err)
		equal(t, seq, int64(0))
	})
}

func TestNewNamespaceSeesNothingOfAnEarlierOne(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		namespace(t, s, "team", dayfly.Limits{})
		r := fresh("team")
		_, _, err := s.Create(t.Context(), Creation{Records: []Record{r}, Events: []dayfly.Event{{Namespace: "team"}}})
		no(t, err)
		no(t, s.CreateKey(t.Context(), KeyRecord{Key: dayfly.Key{ID: "k", Namespace: "team"}}, Once{}))
		no(t, s.CreateWebhook(t.Context(), dayfly.Webhook{ID: "h", Namespace: "team"}, Once{}))
		want(t, s.DeleteNamespace(t.Context(), "team"), dayfly.Conflict)
		r.State = dayfly.Deleted
		_, err = s.Update(t.Context(), Change{Record: r, Events: []dayfly.Event{{Namespace: "team"}}})
		no(t, err)
		no(t, s.DeleteNamespace(t.Context(), "team"))
		want(t, s.DeleteNamespace(t.Context(), "team"), dayfly.NotFound)
		key, err := s.Key(t.Context(), "k")
		no(t, err)
		if key.Valid(time.Now().Add(time.Minute)) {
			t.Error("the key of a deleted namespace is valid")
		}
		_, err = s.Webhook(t.Context(), "h")
		want(t, err, dayfly.NotFound)

		namespace(t, s, "team", dayfly.Limits{})
		happen(t, s, "team", dayfly.WorkspaceCreated)
		events, err := s.Events(t.Context(), dayfly.EventQuery{Namespace: "team"})
		no(t, err)
		equal(t, seqs(events), []int64{3})
	})
}

func hook(t testing.TB, s *Store, w dayfly.Webhook) {
	t.Helper()
	w.URL, w.CreatedAt = "https://example.com/"+w.ID, time.Now()
	no(t, s.CreateWebhook(t.Context(), w, Once{}))
}

// due is webhook:seq of what is to be sent.
func due(t testing.TB, s *Store, now time.Time) []string {
	t.Helper()
	found, err := s.DueDeliveries(t.Context(), now, 10)
	no(t, err)
	var list []string
	for _, d := range found {
		list = append(list, fmt.Sprintf("%s:%d", d.Webhook, d.Event.Seq))
	}
	return list
}

func TestDeliveriesArriveInOrderOncePerWebhook(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		now := time.Now().Add(time.Minute)
		namespace(t, s, "other", dayfly.Limits{})
		happen(t, s, "default", dayfly.WorkspaceCreated) // 1, before any webhook
		hook(t, s, dayfly.Webhook{ID: "all", Active: true})
		hook(t, s, dayfly.Webhook{ID: "other", Namespace: "other", Active: true})
		hook(t, s, dayfly.Webhook{ID: "some", Active: true, Types: []dayfly.EventType{dayfly.WorkspaceFailed, dayfly.WorkspaceReady}})
		hook(t, s, dayfly.Webhook{ID: "off"})
		happen(t, s, "default", dayfly.WorkspaceCreated, dayfly.WorkspaceReady) // 2, 3
		happen(t, s, "other", dayfly.WorkspaceCreated)                          // 4

		for _, row := range []struct {
			upTo int64
			made int
		}{{3, 3}, {3, 0}, {2, 0}, {1 << 40, 2}, {1 << 50, 0}} {
			made, err := s.Enqueue(t.Context(), row.upTo)
			no(t, err)
			equal(t, made, row.made)
		}
		equal(t, due(t, s, now), []string{"all:2", "some:3", "other:4"})

		first, err := s.DueDeliveries(t.Context(), now, 1)
		no(t, err)
		d := first[0]
		later := now.Add(time.Hour)
		d.Attempts, d.Status, d.Error, d.SentAt, d.NextAt = 1, 500, "receiver said no", &now, &later
		no(t, s.SaveDelivery(t.Context(), d))
		equal(t, due(t, s, now), []string{"some:3", "other:4"}) // all:3 waits behind all:2
		equal(t, due(t, s, later), []string{"all:2", "some:3", "other:4"})

		d.Attempts, d.Status, d.Error, d.DoneAt, d.NextAt = 2, 204, "", &later, nil
		no(t, s.SaveDelivery(t.Context(), d))
		equal(t, due(t, s, now), []string{"all:3", "some:3", "other:4"})
		log, err := s.Deliveries(t.Context(), "all", 10)
		no(t, err)
		if len(log) != 3 || log[2].Attempts != 2 || log[2].Status != 204 || log[2].DoneAt == nil || log[0].Event.Seq != 4 {
			t.Errorf("delivery log: %+v", log)
		}

		no(t, s.UpdateWebhook(t.Context(), dayfly.Webhook{ID: "some"})) // made inactive
		no(t, s.DeleteWebhook(t.Context(), "other"))
		equal(t, due(t, s, now), []string{"all:3"})
		d.Webhook = "other"
		want(t, s.SaveDelivery(t.Context(), d), dayfly.NotFound)
		happen(t, s, "default", dayfly.WorkspaceCreated) // 5: numbers go on
		made, err := s.Enqueue(t.Context(), 5)
		no(t, err)
		equal(t, made, 1)
	})
}

func TestRacingEnqueuesMakeEachDeliveryOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		hook(t, s, dayfly.Webhook{ID: "all", Active: true})
		var total sync.Map
		kinds := race(20, func(i int) error {
			if _, _, err := s.Create(t.Context(), Creation{Records: []Record{fresh("default")}, Events: make([]dayfly.Event, 3)}); err != nil {
				return err
			}
			n, err := s.Enqueue(t.Context(), 1<<40)
			total.Store(i, n)
			return err
		})
		equal(t, kinds, map[dayfly.Kind]int{"": 20})
		sum := 0
		total.Range(func(_, n any) bool { sum += n.(int); return true })
		equal(t, sum, 60)
	})
}

func TestWebhookKeepsItsSecret(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		w := dayfly.Webhook{ID: "h", URL: "https://a", Active: true, Secret: "whsec_1", CreatedAt: exact(time.Now())}
		no(t, s.CreateWebhook(t.Context(), w, Once{}))
		want(t, s.CreateWebhook(t.Context(), w, Once{}), dayfly.Conflict)
		want(t, s.CreateWebhook(t.Context(), dayfly.Webhook{ID: "i", Namespace: "nowhere"}, Once{}), dayfly.NotFound)
		w.URL, w.Secret = "https://b", ""
		no(t, s.UpdateWebhook(t.Context(), w))
		w.Secret = "whsec_1"
		got, err := s.Webhook(t.Context(), "h")
		no(t, err)
		equal(t, got, w)
		list, err := s.Webhooks(t.Context(), "")
		no(t, err)
		equal(t, list, []dayfly.Webhook{w})
		want(t, s.UpdateWebhook(t.Context(), dayfly.Webhook{ID: "x"}), dayfly.NotFound)
		want(t, s.DeleteWebhook(t.Context(), "x"), dayfly.NotFound)
	})
}

func TestPruneKeepsWhatIsWaitedFor(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		hook(t, s, dayfly.Webhook{ID: "all", Active: true})
		happen(t, s, "default", dayfly.WorkspaceCreated, dayfly.WorkspaceReady)
		_, err := s.Enqueue(t.Context(), 2)
		no(t, err)
		happen(t, s, "default", dayfly.WorkspaceCreated) // 3, not enqueued
		no(t, s.AddAudit(t.Context(), dayfly.AuditEntry{At: time.Now(), Action: "POST /v1/workspaces"}))
		done := time.Now()
		no(t, s.SaveDelivery(t.Context(), dayfly.Delivery{Webhook: "all", Event: dayfly.Event{Seq: 1}, DoneAt: &done}))

		future := time.Now().Add(time.Hour)
		no(t, s.Prune(t.Context(), time.Now().Add(-time.Hour)))
		no(t, s.Prune(t.Context(), future))
		events, err := s.Events(context.WithoutCancel(t.Context()), dayfly.EventQuery{})
		no(t, err)
		equal(t, seqs(events), []int64{2, 3})
		log, err := s.Deliveries(t.Context(), "all", 10)
		no(t, err)
		if len(log) != 1 || log[0].Event.Seq != 2 {
			t.Errorf("delivery log: %+v", log)
		}
		audit, err := s.Audit(t.Context(), dayfly.AuditQuery{})
		no(t, err)
		equal(t, len(audit), 0)
	})
}

func TestPruneForgetsMuchInManySteps(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		entries := make([]dayfly.AuditEntry, 2*pruneBatch+1)
		for i := range entries {
			entries[i].At = time.Now()
		}
		no(t, s.AddAudit(t.Context(), entries...))
		_, _, err := s.Create(t.Context(), Creation{Records: []Record{fresh("default")}, Once: Once{Key: "k"}})
		no(t, err)
		s.now = func() time.Time { return time.Now().Add(2 * onceLife) }
		no(t, s.Prune(t.Context(), time.Now().Add(time.Hour)))
		left, err := s.Audit(t.Context(), dayfly.AuditQuery{})
		no(t, err)
		equal(t, len(left), 0)
		var n int
		no(t, session{s.read}.one(t.Context(), []any{&n}, `SELECT COUNT(*) FROM requests`))
		equal(t, n, 0)
	})
}
