package control_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/control"
	"github.com/dayfly/dayfly/store"
)

func (w *world) key(k dayfly.Key) (dayfly.Key, string) {
	w.t.Helper()
	k, secret, err := w.CreateKey(context.Background(), k)
	if err != nil {
		w.t.Fatal(err)
	}
	return k, secret
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestKeyOpensItsNamespaceAndNoOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.namespace("team", dayfly.Limits{})
	bound, secret := w.key(dayfly.Key{Name: "ci", Namespace: "team"})
	caller, revoked, err := w.Authenticate(t.Context(), secret)
	if err != nil || caller.Key != bound.ID || caller.Namespace != "team" || !caller.Bound || caller.Admin() || isClosed(revoked) {
		t.Fatalf("%+v, %v", caller, err)
	}
	if !strings.HasPrefix(secret, "dfk_"+bound.ID+"_") || len(secret) != len("dfk_"+bound.ID+"_")+40 {
		t.Errorf("a secret of %d characters", len(secret))
	}
	_, admin := w.key(dayfly.Key{})
	if caller, _, err := w.Authenticate(t.Context(), admin); err != nil || !caller.Admin() {
		t.Fatalf("%+v, %v", caller, err)
	}
	_, _, err = w.CreateKey(t.Context(), dayfly.Key{Namespace: "nowhere"})
	wantKind(t, err, dayfly.NotFound)
	list, err := w.Keys(t.Context())
	if err != nil || len(list) != 2 {
		t.Fatalf("%v, %v", list, err)
	}
}

func TestWhatIsWrongWithAKeyIsNotSaid(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k, secret := w.key(dayfly.Key{})
	gone, goneSecret := w.key(dayfly.Key{})
	if err := w.RevokeKey(t.Context(), gone.ID); err != nil {
		t.Fatal(err)
	}
	said := map[string]bool{}
	for _, s := range []string{
		"", "x", "dfk_", "dfk_" + k.ID, "dfk_" + k.ID + "_", secret[:len(secret)-1] + "!", secret + "x", strings.ToUpper(secret),
		"dfk_aaaaaaaaaaaa_" + strings.Repeat("a", 40), goneSecret, "dft_", "dft_e30.AAAA", "dft_." + strings.Repeat("A", 43), strings.Repeat("dfk_", 10000),
	} {
		_, _, err := w.Authenticate(t.Context(), s)
		wantKind(t, err, dayfly.Denied)
		said[err.Error()] = true
	}
	if len(said) != 1 {
		t.Errorf("refusals differ: %v", said)
	}
}

func TestRevokedKeyOpensNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k, secret := w.key(dayfly.Key{})
	_, revoked, err := w.Authenticate(t.Context(), secret)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.RevokeKey(t.Context(), k.ID); err != nil {
		t.Fatal(err)
	}
	if !isClosed(revoked) {
		t.Error("what is under way with it goes on")
	}
	_, _, err = w.Authenticate(t.Context(), secret)
	wantKind(t, err, dayfly.Denied)
	w.namespace("team", dayfly.Limits{})
	_, secret = w.key(dayfly.Key{Namespace: "team"})
	if _, revoked, err = w.Authenticate(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	if err := w.DeleteNamespace(t.Context(), "team"); err != nil {
		t.Fatal(err)
	}
	if !isClosed(revoked) {
		t.Error("a key outlives its namespace")
	}
}

func TestKeyExpiresToTheSecond(t *testing.T) {
	rules(t, func(t *testing.T, w *world) {
		at := time.Now().Add(time.Minute)
		_, secret := w.key(dayfly.Key{ExpiresAt: &at})
		_, revoked, err := w.Authenticate(t.Context(), secret)
		if err != nil {
			t.Fatal(err)
		}
		after(59 * time.Second)
		if isClosed(revoked) {
			t.Fatal("too early")
		}
		after(time.Second)
		if !isClosed(revoked) {
			t.Fatal("what is under way with it goes on")
		}
		_, _, err = w.Authenticate(t.Context(), secret)
		wantKind(t, err, dayfly.Denied)
		past := time.Now().Add(-time.Second)
		_, _, err = w.CreateKey(t.Context(), dayfly.Key{ExpiresAt: &past})
		wantKind(t, err, dayfly.Invalid)
	})
}

func TestKeyIsBelievedInForAMinuteWithoutTheStore(t *testing.T) {
	var away *awayStore
	rules(t, func(t *testing.T, w *world) {
		_, secret := w.key(dayfly.Key{})
		other, unused := w.key(dayfly.Key{})
		if _, _, err := w.Authenticate(t.Context(), secret); err != nil {
			t.Fatal(err)
		}
		away.set(true)
		after(58 * time.Second)
		if _, _, err := w.Authenticate(t.Context(), secret); err != nil {
			t.Fatal(err)
		}
		_, _, err := w.Authenticate(t.Context(), secret[:len(secret)-1]+"!")
		wantKind(t, err, dayfly.Denied)
		_, _, err = w.Authenticate(t.Context(), unused)
		wantKind(t, err, dayfly.Unavailable)
		after(3 * time.Second)
		_, _, err = w.Authenticate(t.Context(), secret)
		wantKind(t, err, dayfly.Unavailable)
		away.set(false)
		if _, _, err := w.Authenticate(t.Context(), secret); err != nil {
			t.Fatal(err)
		}
		after(time.Minute)
		list, err := w.Keys(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range list {
			if (k.UsedAt != nil) != (k.ID != other.ID) {
				t.Errorf("last use of %s: %v", k.ID, k.UsedAt)
			}
		}
	}, func(o *control.Options) {
		away = &awayStore{Store: o.Store.(*store.Store)}
		o.Store = away
	})
}

func TestTokenAllowsTheUseOfOneWorkspace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.node.guest = (&fakeGuest{}).handler
	ws, other := w.create(base), w.create(base)
	tok, err := w.CreateToken(t.Context(), ws.ID, time.Hour)
	if err != nil || !strings.HasPrefix(tok.Token, "dft_") || tok.Workspace != ws.ID {
		t.Fatalf("%+v, %v", tok, err)
	}
	caller, revoked, err := w.Authenticate(t.Context(), tok.Token)
	if err != nil || caller.Workspace != ws.ID || caller.Admin() {
		t.Fatalf("%+v, %v", caller, err)
	}
	ctx := as(caller)
	for name, f := range map[string]func(dayfly.ID) error{
		"get":        func(id dayfly.ID) error { return second(w.Get(ctx, id)) },
		"resolve":    func(id dayfly.ID) error { return second(w.Resolve(ctx, string(id))) },
		"keep-alive": func(id dayfly.ID) error { return second(w.KeepAlive(ctx, id, nil)) },
		"log":        func(id dayfly.ID) error { return second(w.Log(ctx, id, dayfly.LogQuery{Source: dayfly.BootLog})) },
		"metrics":    func(id dayfly.ID) error { return second(w.Metrics(ctx, id)) },
		"events":     func(id dayfly.ID) error { return second(w.Events(ctx, dayfly.EventQuery{Workspace: id})) },
		"dial": func(id dayfly.ID) error {
			conn, err := w.Dial(ctx, id, 80)
			if err == nil {
				conn.Close()
			}
			return err
		},
	} {
		if err := f(ws.ID); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := f(other.ID); dayfly.KindOf(err) != dayfly.NotFound {
			t.Errorf("%s of another: %v", name, err)
		}
	}
	for name, err := range map[string]error{
		"create": second(w.Create(ctx, base, dayfly.CreateOptions{})), "list": second(w.List(ctx, dayfly.Query{})),
		"stop": second(w.Stop(ctx, ws.ID)), "start": second(w.Start(ctx, ws.ID)), "delete": w.Delete(ctx, ws.ID),
		"update": second(w.Update(ctx, ws.ID, dayfly.Update{})), "fork": second(w.Fork(ctx, ws.ID, 1)),
		"snapshot": second(w.Snapshot(ctx, ws.ID, "")), "snapshots": second(w.Snapshots(ctx)), "token": second(w.CreateToken(ctx, ws.ID, time.Hour)),
		"keys": second(w.Keys(ctx)), "webhooks": second(w.Webhooks(ctx)), "quota": second(w.Quota(ctx, "default")),
		"audit": second(w.Audit(ctx, dayfly.AuditQuery{})), "namespaces": second(w.Namespaces(ctx)),
	} {
		if dayfly.KindOf(err) != dayfly.Denied {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := w.Delete(t.Context(), ws.ID); err != nil {
		t.Fatal(err)
	}
	select {
	case <-revoked:
	case <-time.After(10 * time.Second):
		t.Error("a token outlives its workspace")
	}
	_, _, err = w.Authenticate(t.Context(), tok.Token)
	wantKind(t, err, dayfly.Denied)
	_, err = w.CreateToken(t.Context(), other.ID, 25*time.Hour)
	wantKind(t, err, dayfly.Invalid)
}

func TestTokenExpiresToTheSecond(t *testing.T) {
	rules(t, func(t *testing.T, w *world) {
		ws := w.create(base)
		tok, err := w.CreateToken(t.Context(), ws.ID, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		after(30 * time.Second)
		w.reopen() // it is not stored anywhere
		_, revoked, err := w.Authenticate(t.Context(), tok.Token)
		if err != nil {
			t.Fatal(err)
		}
		after(30 * time.Second)
		if _, _, err := w.Authenticate(t.Context(), tok.Token); dayfly.KindOf(err) != dayfly.Denied || !isClosed(revoked) {
			t.Fatalf("%v, what is under way has ended: %v", err, isClosed(revoked))
		}
	})
}

// FuzzAuthenticate: nothing but what was made here opens anything.
func FuzzAuthenticate(f *testing.F) {
	w := newWorld(f)
	ws := w.create(base)
	_, secret := w.key(dayfly.Key{})
	tok, err := w.CreateToken(context.Background(), ws.ID, time.Hour)
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{"", secret, tok.Token, "dfk_a_b", "dft_e30.e30", tok.Token + "=", strings.Replace(tok.Token, ".", "..", 1)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		_, _, err := w.Authenticate(t.Context(), s)
		if err == nil && s != secret && s != tok.Token {
			t.Errorf("%q opens something", s)
		}
		if k := dayfly.KindOf(err); err != nil && k != dayfly.Denied {
			t.Errorf("%q: %v", s, err)
		}
	})
}
