package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"io/fs"
	"net"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
	driversqlite "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/dayfly/dayfly"
)

// fault turns what an engine says into what a caller may be told. What is an
// Error already stays as it is; what no row here knows is Internal.
func (s *Store) fault(doing string, err error) error {
	var known *dayfly.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	for _, ended := range []error{context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, ended) && !isUnreachable(err) {
			e := dayfly.Errorf(dayfly.Unavailable, "%s: %w", doing, ended)
			e.Err = err
			return e
		}
	}
	kind, why := s.describe(err)
	e := dayfly.Errorf(kind, "%s: %s", doing, why)
	e.Err = err
	return e
}

func (s *Store) describe(err error) (dayfly.Kind, string) {
	var lite *driversqlite.Error
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &lite):
		return s.describeSQLite(lite.Code())
	case errors.As(err, &pg):
		return describePostgres(pg)
	case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
		return dayfly.Exhausted, s.full()
	case isLost(err): // before the files: a socket's errors are those of a file
		return dayfly.Unavailable, "the database does not answer: look whether it runs, then try again"
	case errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS):
		return dayfly.Unavailable, s.unwritable()
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR):
		return dayfly.Unavailable, s.at.shown + ": its directory is not there: make it first"
	}
	return dayfly.Internal, "the database refused a statement"
}

// isBusy reports whether another connection to a SQLite file was in the way.
func isBusy(err error) bool {
	var lite *driversqlite.Error
	return errors.As(err, &lite) && lite.Code()&0xff == sqlite3.SQLITE_BUSY
}

func (s *Store) full() string {
	return "no space left for the database: free some on its file system, as with dayfly system prune"
}

func (s *Store) unwritable() string {
	return s.at.shown + " cannot be written: let the server's user write this file and its directory"
}

func (s *Store) damaged() string {
	return s.at.shown + " is damaged or no database: put it aside and restore a backup"
}

func (s *Store) describeSQLite(code int) (dayfly.Kind, string) {
	if code == sqlite3.SQLITE_IOERR_SHMSIZE {
		return dayfly.Exhausted, s.full() // there is no room for the index of the write-ahead log
	}
	switch code & 0xff {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return dayfly.Unavailable, s.at.shown + " is locked by another process: end it, or try again"
	case sqlite3.SQLITE_FULL:
		return dayfly.Exhausted, s.full()
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN:
		return dayfly.Unavailable, s.unwritable()
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return dayfly.Unavailable, s.damaged()
	case sqlite3.SQLITE_IOERR:
		return dayfly.Unavailable, "reading or writing " + s.at.shown + ": look at the host's disk"
	case sqlite3.SQLITE_INTERRUPT:
		return dayfly.Unavailable, "interrupted"
	}
	return dayfly.Internal, "the database refused a statement"
}

// pgFaults are what PostgreSQL says, by its codes or classes of codes:
// https://www.postgresql.org/docs/current/errcodes-appendix.html
var pgFaults = []struct {
	code string
	kind dayfly.Kind
	why  string
}{
	{"22021", dayfly.Invalid, "text must be UTF-8 without NUL bytes"},
	{"25006", dayfly.Unavailable, "the database is read-only: point the server at its primary"},
	{"28", dayfly.Unavailable, "the database does not let this user in: look at the user and password of its URL"},
	{"3D000", dayfly.Unavailable, "there is no such database: make it first (createdb)"},
	{"40", dayfly.Unavailable, "too many changes at the same time: try again"},
	{"42501", dayfly.Unavailable, "the database's user may not do this: make it the owner of the database"},
	{"53100", dayfly.Exhausted, "no space left for the database: free some on its server"},
	{"53", dayfly.Unavailable, "the database server has no connections or memory left: raise its limits, or try again"},
	{"55P03", dayfly.Unavailable, "the database is locked by another process: end it, or try again"},
	{"57", dayfly.Unavailable, "the database server is stopping or starting: try again"},
	{"58", dayfly.Unavailable, "the database server cannot use its disk: look at its log"},
	{"08", dayfly.Unavailable, "the database does not answer: look whether it runs, then try again"},
	{"XX", dayfly.Unavailable, "the database is damaged: look at its server's log"},
}

func describePostgres(pg *pgconn.PgError) (dayfly.Kind, string) {
	for _, f := range pgFaults {
		if strings.HasPrefix(pg.Code, f.code) {
			return f.kind, f.why
		}
	}
	return dayfly.Internal, "the database refused a statement"
}

// isLost reports whether err means that there is no connection any more, or
// none could be made.
func isLost(err error) bool {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return strings.HasPrefix(pg.Code, "08") || strings.HasPrefix(pg.Code, "57P0")
	}
	var network *net.OpError // not net.Error, which every errno is
	return isUnreachable(err) || errors.As(err, &network) ||
		errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNREFUSED) ||
		pgconn.SafeToRetry(err) || err != nil && strings.Contains(err.Error(), "conn closed")
}

// isUnreachable reports whether no connection could be made.
func isUnreachable(err error) bool {
	var connect *pgconn.ConnectError
	return errors.As(err, &connect)
}

// isRace reports whether PostgreSQL has undone a transaction because of another
// one, so that it may just be made again.
func isRace(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == "40001" || pg.Code == "40P01")
}

// duplicate returns which uniqueness err is about: the name of PostgreSQL's
// constraint or SQLite's list of columns; empty: none.
func duplicate(err error) string {
	var lite *driversqlite.Error
	if errors.As(err, &lite) {
		switch lite.Code() {
		case sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY:
			return lite.Error()
		}
		return ""
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "23505" {
		return pg.ConstraintName
	}
	return ""
}

// isDuplicateName reports whether a name is taken, rather than an id.
func isDuplicateName(err error) bool {
	d := duplicate(err)
	return strings.HasSuffix(d, "_name") || strings.Contains(d, ".name")
}

func constraintOf(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.ConstraintName
	}
	return ""
}
