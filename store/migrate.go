package store

import (
	"context"
	"embed"
	"io/fs"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"github.com/dayfly/dayfly"
)

//go:embed migrations/*.sql
var migrations embed.FS

// How often a migration is begun that another process, which opens the same new
// SQLite file, has been quicker with; and the pause before it is begun again while
// that one makes the file one with a write-ahead log, for which SQLite does not
// wait by itself.
const (
	migrateTries = 3
	busyPause    = 20 * time.Millisecond
)

// migrate brings the tables to this release's version. A database of a later
// one is left as it is.
func (s *Store) migrate(ctx context.Context) error {
	if s.at.engine == postgres {
		// Two servers that begin at once may both try; the names differ then
		// only in who was first.
		if err := s.makeCollation(ctx); err != nil {
			return err
		}
	}
	began := time.Now()
	for try := 1; ; try++ {
		begun, err := s.migrateOnce(ctx)
		busy := isBusy(err) && time.Since(began) < busyTimeout
		if again := busy || begun && try < migrateTries; err == nil || !again {
			return err
		}
		pause := time.NewTimer(busyPause)
		select {
		case <-ctx.Done():
			pause.Stop()
			return err
		case <-pause.C:
		}
	}
}

// migrateOnce says whether it has begun to change anything.
func (s *Store) migrateOnce(ctx context.Context) (begun bool, err error) {
	p, err := s.provider()
	if err != nil {
		return false, err
	}
	current, target, err := p.GetVersions(ctx)
	if err != nil {
		return false, err
	}
	if current > target {
		return false, dayfly.Errorf(dayfly.Unavailable,
			"the database %s was written by a newer release (version %d; this one knows %d): run that release, or restore a backup made before",
			s.at.shown, current, target)
	}
	_, err = p.Up(ctx)
	return true, err
}

// makeCollation gives PostgreSQL the name of the order that SQLite has built in.
func (s *Store) makeCollation(ctx context.Context) error {
	var there bool
	err := s.write.QueryRowContext(ctx,
		`SELECT EXISTS (SELECT 1 FROM pg_collation WHERE collname = 'binary' AND pg_collation_is_visible(oid))`).Scan(&there)
	if err != nil || there {
		return err
	}
	_, err = s.write.ExecContext(ctx, `CREATE COLLATION IF NOT EXISTS "binary" FROM "C"`)
	if constraintOf(err) == "pg_collation_name_enc_nsp_index" {
		return nil // another server has made it at this moment
	}
	return err
}

func (s *Store) provider() (*goose.Provider, error) {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	dialect, options := goose.DialectSQLite3, []goose.ProviderOption{goose.WithDisableGlobalRegistry(true)}
	if s.at.engine == postgres {
		dialect = goose.DialectPostgres
		locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 60))
		if err != nil {
			return nil, err
		}
		options = append(options, goose.WithSessionLocker(locker))
	}
	return goose.NewProvider(dialect, s.write, files, options...)
}
