package store

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/dayfly/dayfly"
)

// Backup writes the database as it is at one moment to a new file, for its
// owner alone, while everything goes on. It never writes over a file. The
// backup is a database: to restore it, put it where the other one was while no
// server runs.
func (s *Store) Backup(ctx context.Context, path string) error {
	if s.at.engine != sqlite {
		return dayfly.Errorf(dayfly.Invalid, "the database is PostgreSQL: back it up with pg_dump")
	}
	err := s.backup(ctx, path)
	if errors.Is(err, fs.ErrExist) {
		return dayfly.Errorf(dayfly.Conflict, "%s is there already: name a new file", path)
	}
	return s.fault("back up to "+path, err)
}

func (s *Store) backup(ctx context.Context, path string) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	part := f.Name()
	defer func() { err = errors.Join(err, os.Remove(part)) }()
	if err := f.Close(); err != nil {
		return err
	}
	if err := s.vacuumInto(ctx, part); err != nil {
		return err
	}
	if err := syncFile(part); err != nil {
		return err
	}
	// Unlike a rename, a link never replaces.
	if err := os.Link(part, path); err != nil {
		return err
	}
	return syncDir(dir)
}

// vacuumInto fills an empty file. The readers of the store are not allowed to,
// so it has a connection of its own.
func (s *Store) vacuumInto(ctx context.Context, path string) error {
	db, err := sql.Open("sqlite", sqliteDSN(s.at.path))
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.ExecContext(ctx, `VACUUM INTO $1`, path)
	return err
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
