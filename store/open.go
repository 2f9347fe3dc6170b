package store

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/dayfly/dayfly"
)

// Bounds of waiting and of what is open at once.
const (
	busyTimeout    = 5 * time.Second  // for a lock that another process or transaction holds
	changeTimeout  = 30 * time.Second // for a transaction as a whole
	connectTimeout = 5 * time.Second  // to PostgreSQL, unless the URL says otherwise

	sqliteReaders = 4
	postgresConns = 8
)

// Store is an open database. All its methods may be called at the same time.
type Store struct {
	at  address
	log *slog.Logger
	now func() time.Time

	write *sql.DB // SQLite: one connection, as it has one writer at a time
	read  *sql.DB // PostgreSQL: the same as write

	close func() error
}

// Open opens a database and brings its tables to this release's version. The
// namespace "default" is there afterwards. Close it.
func Open(ctx context.Context, o Options) (*Store, error) {
	at, err := parseURL(o.URL)
	if err != nil {
		return nil, err
	}
	s := &Store{at: at, log: o.Log, now: time.Now}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if at.engine == sqlite {
		err = s.connectSQLite()
	} else {
		err = s.connectPostgres()
	}
	if err != nil {
		return nil, s.fault("open the database", err)
	}
	s.close = sync.OnceValue(s.closePools)
	if err := s.prepare(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.log.InfoContext(ctx, "database open", "engine", at.engine, "url", at.shown)
	return s, nil
}

// prepare migrates and makes what is always there.
func (s *Store) prepare(ctx context.Context) error {
	if err := s.migrate(ctx); err != nil {
		return s.fault("open the database", s.orDamage(ctx, err))
	}
	err := s.CreateNamespace(ctx, dayfly.Namespace{Name: dayfly.DefaultNamespace, CreatedAt: s.now()}, Once{})
	if dayfly.KindOf(err) == dayfly.Conflict {
		return nil
	}
	return err
}

// orDamage looks whether a SQLite file is whole that a migration has failed on:
// damage shows in many ways. It reads all of it, so it is not done for its own sake.
func (s *Store) orDamage(ctx context.Context, err error) error {
	var known *dayfly.Error
	if s.at.engine != sqlite || errors.As(err, &known) {
		return err
	}
	var verdict string
	checked := s.write.QueryRowContext(ctx, `PRAGMA quick_check(1)`).Scan(&verdict)
	switch {
	case checked != nil: // what it cannot read even so
		return errors.Join(checked, err)
	case verdict == "ok":
		return err
	}
	e := dayfly.Errorf(dayfly.Unavailable, "open the database: %s", s.damaged())
	e.Err = err
	return e
}

// connectSQLite makes the file, for its owner alone: the files that SQLite puts
// beside it have its mode.
func (s *Store) connectSQLite() error {
	f, err := os.OpenFile(s.at.path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	switch {
	case err == nil:
		if err := errors.Join(f.Close(), syncDir(filepath.Dir(s.at.path))); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrExist):
		// A file that is there is never opened here: closing it would give up
		// the locks that SQLite holds on it elsewhere in this process.
		return err
	}
	if s.write, err = sql.Open("sqlite", sqliteDSN(s.at.path, "synchronous(FULL)", "journal_mode(WAL)")); err != nil {
		return err
	}
	if s.read, err = sql.Open("sqlite", sqliteDSN(s.at.path, "query_only(1)")); err != nil {
		return err
	}
	s.write.SetMaxOpenConns(1)
	s.read.SetMaxOpenConns(sqliteReaders)
	s.read.SetMaxIdleConns(sqliteReaders)
	return nil
}

func sqliteDSN(path string, pragmas ...string) string {
	pragmas = append([]string{"busy_timeout(5000)", "foreign_keys(1)"}, pragmas...)
	query := url.Values{"_pragma": pragmas, "_txlock": {"immediate"}}
	return (&url.URL{Scheme: "file", Path: path, RawQuery: query.Encode()}).String()
}

func (s *Store) connectPostgres() error {
	config, err := pgx.ParseConfig(s.at.dsn)
	if err != nil {
		// What pgx says may quote the URL.
		return dayfly.Errorf(dayfly.Invalid, "the database URL %s is not one of PostgreSQL: %s", s.at.shown, urlForms)
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	params := config.RuntimeParams
	if params["application_name"] == "" {
		params["application_name"] = "dayfly"
	}
	// Rows are locked by the statements themselves; what is read after them is
	// what is true by then. A server that hangs gives its locks back.
	params["default_transaction_isolation"] = "read committed"
	params["lock_timeout"] = millis(busyTimeout)
	params["idle_in_transaction_session_timeout"] = millis(changeTimeout)
	s.write = stdlib.OpenDB(*config)
	s.write.SetMaxOpenConns(postgresConns)
	s.write.SetMaxIdleConns(postgresConns)
	s.read = s.write
	return nil
}

// Close waits for what is under way. It may be called again.
func (s *Store) Close() error { return s.close() }

func (s *Store) closePools() error {
	if s.read == s.write {
		return s.write.Close()
	}
	// The writer last: the last to leave empties the write-ahead log.
	return errors.Join(s.read.Close(), s.write.Close())
}

// Ping asks the database whether it answers.
func (s *Store) Ping(ctx context.Context) error {
	return s.view(ctx, "ask the database", func(q session) error {
		var n int64
		return q.one(ctx, []any{&n}, `SELECT value FROM counters WHERE name = 'events'`)
	})
}

// Engine is "sqlite" or "postgres".
func (s *Store) Engine() string { return s.at.engine }

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
