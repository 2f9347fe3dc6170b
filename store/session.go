package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"math/rand/v2"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dayfly/dayfly"
)

// tries is how often something is done that other transactions or a lost
// connection have undone.
const tries = 5

// session is a place to run statements: a transaction, or any connection.
type session struct {
	q interface {
		ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
		QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	}
}

// view runs what only reads, each statement by itself. f may run more than once.
func (s *Store) view(ctx context.Context, doing string, f func(session) error) error {
	return s.fault(doing, s.retry(ctx, func() error { return f(session{s.read}) }))
}

// change runs f in a transaction. Without an error, what it did is durable. f
// may run more than once; what it did before is undone then.
//
// A commit is not cut off by ctx: once it is sent, its outcome is waited for. If
// the connection breaks meanwhile, that is not known, and the error says so.
func (s *Store) change(ctx context.Context, doing string, f func(context.Context, session) error) error {
	return s.fault(doing, s.retry(ctx, func() error { return s.transact(ctx, doing, f) }))
}

func (s *Store) transact(ctx context.Context, doing string, f func(context.Context, session) error) error {
	ctx, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	conn, err := s.write.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	tx, err := conn.BeginTx(context.WithoutCancel(ctx), nil)
	if err != nil {
		return err
	}
	if err = f(ctx, session{tx}); err == nil {
		err = ctx.Err()
	}
	if err != nil {
		if tx.Rollback() != nil {
			discard(conn)
		}
		return err
	}
	if err := tx.Commit(); err != nil {
		discard(conn)
		if isLost(err) {
			e := dayfly.Errorf(dayfly.Unavailable,
				"%s: the connection to the database broke at the last moment, so this may or may not have been done: look, or ask again with the same ids", doing)
			e.Err = err
			return e
		}
		return err
	}
	return nil
}

// discard closes a connection for good whose transaction has not ended in order.
func discard(conn *sql.Conn) {
	_ = conn.Raw(func(any) error { return driver.ErrBadConn })
}

// retry runs f until it has an outcome of its own. A connection of before the
// database server was restarted is found out by using it.
func (s *Store) retry(ctx context.Context, f func() error) error {
	pause := 5 * time.Millisecond
	for try := 1; ; try++ {
		err := f()
		var known *dayfly.Error
		again := isRace(err) || isLost(err) && !isUnreachable(err) && !errors.Is(err, context.DeadlineExceeded)
		if err == nil || try == tries || errors.As(err, &known) || !again {
			return err
		}
		// Two that undid each other must not meet again.
		timer := time.NewTimer(pause + rand.N(pause)) //nolint:gosec // G404: not a secret
		select {
		case <-ctx.Done():
			timer.Stop()
			return err
		case <-timer.C:
		}
		pause *= 2
	}
}

// exec returns how many rows were changed.
func (q session) exec(ctx context.Context, query string, args ...any) (int64, error) {
	if err := checkText(args); err != nil {
		return 0, err
	}
	result, err := q.q.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// one reads the first row, or returns sql.ErrNoRows.
func (q session) one(ctx context.Context, into []any, query string, args ...any) error {
	found, err := all(ctx, q, func(r *sql.Rows) (bool, error) { return true, r.Scan(into...) }, query, args...)
	if err == nil && len(found) == 0 {
		err = sql.ErrNoRows
	}
	return err
}

// all reads every row.
func all[T any](ctx context.Context, q session, scan func(*sql.Rows) (T, error), query string, args ...any) ([]T, error) {
	if err := checkText(args); err != nil {
		return nil, err
	}
	rows, err := q.q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var found []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		found = append(found, v)
	}
	return found, rows.Err()
}

// checkText refuses what one engine would store and the other not.
func checkText(args []any) error {
	for _, a := range args {
		if s, ok := a.(string); ok && (!utf8.ValidString(s) || strings.ContainsRune(s, 0)) {
			return dayfly.Errorf(dayfly.Invalid, "%.40q: text must be UTF-8 without NUL bytes", s)
		}
	}
	return nil
}
