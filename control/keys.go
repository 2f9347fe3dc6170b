package control

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/store"
)

// The form of a key: dfk_ID_SECRET.
const (
	keyPrefix   = "dfk_"
	keyIDChars  = 12
	keyChars    = 40 // 200 random bits
	maxKeyName  = 255
	maxTokenLen = 1 << 10
)

// How long a key that was looked up is believed in: while the store answers, and
// while it does not.
const (
	keyFresh = time.Second
	keyStale = time.Minute
)

// errNoKey is the answer to everything that does not open anything, for whatever
// reason.
func errNoKey() error {
	return dayfly.Errorf(dayfly.Denied, "the key or token is not valid: ask an admin for one (dayfly keys create)")
}

// CreateKey makes a key: Name, Namespace and ExpiresAt of k are used. Nobody can
// be told its secret again: with Caller.Once a request that is repeated makes no
// second key, and is a Conflict that names the first.
func (c *Control) CreateKey(ctx context.Context, k dayfly.Key) (dayfly.Key, string, error) {
	if err := errors.Join(c.open(), adminOnly(ctx, "keys")); err != nil {
		return dayfly.Key{}, "", err
	}
	now := c.now()
	switch {
	case len(k.Name) > maxKeyName:
		return dayfly.Key{}, "", dayfly.Errorf(dayfly.Invalid, "name is %d bytes long: use at most %d", len(k.Name), maxKeyName)
	case k.ExpiresAt != nil && !k.ExpiresAt.After(now):
		return dayfly.Key{}, "", dayfly.Errorf(dayfly.Invalid, "expires_at is in the past")
	}
	if k.Namespace != "" {
		if _, err := c.db.Namespace(ctx, k.Namespace); err != nil {
			return dayfly.Key{}, "", c.counted(err)
		}
	}
	once, err := c.once(ctx, "key", k.Name, k.Namespace, k.ExpiresAt)
	if err != nil {
		return dayfly.Key{}, "", err
	}
	defer once.leave()
	if once.again {
		return dayfly.Key{}, "", dayfly.Errorf(dayfly.Conflict,
			"the key %s was made with this idempotency key, and its secret was in that answer alone: if it is lost, revoke the key and make another with a new idempotency key",
			once.made[0])
	}
	r, secret := NewKey(k.Name, k.Namespace, now)
	r.ExpiresAt = k.ExpiresAt
	return r.Key, secret, c.counted(c.db.CreateKey(ctx, r, once.Once))
}

// NewKey makes a key and its secret, which is stored nowhere. Whoever sets a
// server up stores the first one; namespace empty: an admin's.
func NewKey(name, namespace string, now time.Time) (store.KeyRecord, string) {
	id := randomText(keyIDChars)
	secret := keyPrefix + id + "_" + randomText(keyChars)
	sum := sha256.Sum256([]byte(secret))
	return store.KeyRecord{Key: dayfly.Key{ID: id, Name: name, Namespace: namespace, CreatedAt: now}, Digest: sum[:]}, secret
}

// Keys returns all keys, newest first, without their secrets.
func (c *Control) Keys(ctx context.Context) ([]dayfly.Key, error) {
	if err := errors.Join(c.open(), adminOnly(ctx, "keys")); err != nil {
		return nil, err
	}
	list, err := c.db.Keys(ctx, dayfly.CallerOf(ctx).Namespace)
	return list, c.counted(err)
}

// RevokeKey ends a key at once: what is under way with it ends, too.
func (c *Control) RevokeKey(ctx context.Context, id string) error {
	if err := errors.Join(c.open(), adminOnly(ctx, "keys")); err != nil {
		return err
	}
	if err := c.counted(c.db.RevokeKey(ctx, id, c.now())); err != nil {
		return err
	}
	c.life.endKey(id)
	return nil
}

// Authenticate returns whom a key or workspace token stands for. revoked is
// closed as soon as it no longer does. Everything wrong with it is one Denied
// error.
func (c *Control) Authenticate(ctx context.Context, token string) (dayfly.Caller, <-chan struct{}, error) {
	switch {
	case len(token) > maxTokenLen:
		return dayfly.Caller{}, nil, errNoKey()
	case strings.HasPrefix(token, keyPrefix):
		return c.byKey(ctx, token)
	case strings.HasPrefix(token, tokenPrefix):
		return c.byToken(token)
	}
	return dayfly.Caller{}, nil, errNoKey()
}

func (c *Control) byKey(ctx context.Context, secret string) (dayfly.Caller, <-chan struct{}, error) {
	id, _, ok := strings.Cut(strings.TrimPrefix(secret, keyPrefix), "_")
	if !ok || len(id) != keyIDChars || strings.Trim(id, "abcdefghijklmnopqrstuvwxyz234567") != "" {
		return dayfly.Caller{}, nil, errNoKey()
	}
	r, err := c.key(ctx, id)
	switch dayfly.KindOf(err) {
	case "":
	case dayfly.NotFound:
		return dayfly.Caller{}, nil, errNoKey()
	default:
		return dayfly.Caller{}, nil, err
	}
	sum := sha256.Sum256([]byte(secret))
	now := c.now()
	if subtle.ConstantTimeCompare(sum[:], r.Digest) != 1 || !r.Valid(now) {
		return dayfly.Caller{}, nil, errNoKey()
	}
	revoked := c.life.ofKey(r, now)
	if revoked == nil {
		return dayfly.Caller{}, nil, errNoKey()
	}
	return dayfly.Caller{Key: r.ID, Namespace: r.Namespace, Bound: r.Namespace != ""}, revoked, nil
}

// key looks a key up, in memory if it was looked up just now or the store is
// away.
func (c *Control) key(ctx context.Context, id string) (store.KeyRecord, error) {
	now := c.now()
	had, at, ok := c.life.known(id)
	age := now.Sub(at)
	if ok && age >= 0 && age < keyFresh {
		return had, nil
	}
	r, err := c.db.Key(ctx, id)
	switch kind := dayfly.KindOf(c.counted(err)); {
	case err == nil:
		c.life.learn(r, now)
		return r, nil
	case kind == dayfly.NotFound:
		c.life.endKey(id)
	case kind == dayfly.Unavailable && ok && age >= 0 && age < keyStale:
		return had, nil
	}
	return r, err
}

// lives are the keys and tokens that are in use, and what ends with them. Its
// methods may be called at the same time.
type lives struct {
	mu     sync.Mutex
	keys   map[string]*keyLife
	tokens map[string]*life // by their signed text
	used   map[string]time.Time
}

// life is closed when what it belongs to opens nothing any more.
type life struct {
	over  chan struct{}
	once  sync.Once
	timer *time.Timer // of its expiry, or nil
	of    dayfly.ID   // a token's workspace
}

func (l *life) end() {
	l.once.Do(func() {
		if l.timer != nil {
			l.timer.Stop()
		}
		close(l.over)
	})
}

type keyLife struct {
	rec store.KeyRecord
	at  time.Time // of the store's answer
	*life
}

func (l *lives) init() {
	l.keys, l.tokens, l.used = map[string]*keyLife{}, map[string]*life{}, map[string]time.Time{}
}

// known returns what the store last said of a key in use.
func (l *lives) known(id string) (store.KeyRecord, time.Time, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.keys[id]
	if k == nil {
		return store.KeyRecord{}, time.Time{}, false
	}
	return k.rec, k.at, true
}

// learn takes in what the store says of a key. Only one that was used with its
// secret is remembered.
func (l *lives) learn(r store.KeyRecord, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.keys[r.ID]
	if k == nil {
		return
	}
	if k.rec.RevokedAt != nil { // by this process, a moment ago
		r.RevokedAt = k.rec.RevokedAt
	}
	k.rec, k.at = r, now
	if !r.Valid(now) {
		k.end()
		delete(l.keys, r.ID)
	}
}

// ofKey returns the life of a valid key, and notes its use; nil if it has ended
// meanwhile.
func (l *lives) ofKey(r store.KeyRecord, now time.Time) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.keys[r.ID]
	if k == nil {
		k = &keyLife{rec: r, at: now, life: &life{over: make(chan struct{})}}
		l.keys[r.ID] = k
		if r.ExpiresAt != nil {
			k.timer = time.AfterFunc(r.ExpiresAt.Sub(now), func() { l.endKey(r.ID) })
		}
	}
	l.used[r.ID] = now
	return k.over
}

// endKey ends a key and forgets it: the store says that it is revoked.
func (l *lives) endKey(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k := l.keys[id]; k != nil {
		k.end()
		delete(l.keys, id)
	}
}

// ofToken returns the life of a token, until a time.
func (l *lives) ofToken(token string, of dayfly.ID, left time.Duration) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.tokens[token]
	if t == nil {
		t = &life{over: make(chan struct{}), of: of}
		t.timer = time.AfterFunc(left, func() { l.endToken(token) })
		l.tokens[token] = t
	}
	return t.over
}

func (l *lives) endToken(token string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t := l.tokens[token]; t != nil {
		t.end()
		delete(l.tokens, token)
	}
}

// endWorkspace ends the tokens of a workspace.
func (l *lives) endWorkspace(id dayfly.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for token, t := range l.tokens {
		if t.of == id {
			t.end()
			delete(l.tokens, token)
		}
	}
}

func (l *lives) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range l.keys {
		k.end()
	}
	for _, t := range l.tokens {
		t.end()
	}
	clear(l.keys)
	clear(l.tokens)
}

// uses takes the uses of keys that are to be noted.
func (l *lives) uses() map[string]time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	used := l.used
	l.used = map[string]time.Time{}
	return used
}

// flushKeys notes the uses of keys once a minute, and when the server ends.
func (c *Control) flushKeys(ctx context.Context) {
	for more := true; more; {
		more = sleep(ctx, time.Minute)
		used := c.life.uses()
		if len(used) == 0 {
			continue
		}
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
		if err := c.counted(c.db.TouchKeys(late, used)); err != nil {
			c.log.Warn("note of the use of keys", "err", err)
		}
		cancel()
	}
}
