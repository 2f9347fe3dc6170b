package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/dayfly/dayfly"
)

// normal is r as it is read back.
func (r Record) normal() Record {
	r.CreatedAt = exact(r.CreatedAt)
	r.ExpiresAt = exactPtr(r.ExpiresAt)
	r.UsedAt = exactPtr(r.UsedAt)
	if r.Exit != nil {
		exit := *r.Exit
		exit.At = exact(exit.At)
		r.Exit = &exit
	}
	return r
}

// amounts is what r takes of its namespace's limits.
func (r Record) amounts() dayfly.Amounts {
	switch r.State {
	case dayfly.Deleted:
		return dayfly.Amounts{}
	case dayfly.Creating, dayfly.Running:
		return dayfly.Amounts{Workspaces: 1, Running: 1, CPUs: r.Spec.CPUs, MemoryMiB: r.Spec.MemoryMiB, DiskMiB: r.Spec.DiskMiB}
	}
	return dayfly.Amounts{Workspaces: 1, DiskMiB: r.Spec.DiskMiB}
}

const recordColumns = `document, durable, stopped_by_caller, revision`

func scanRecord(rows *sql.Rows) (Record, error) { return scanRecordAnd(rows) }

// scanRecordAnd reads recordColumns, and what follows them into more.
func scanRecordAnd(rows *sql.Rows, more ...any) (Record, error) {
	var r Record
	var text []byte
	var durable, stopped int64
	if err := rows.Scan(append([]any{&text, &durable, &stopped, &r.Revision}, more...)...); err != nil {
		return r, err
	}
	r.Durable, r.StoppedByCaller = durable != 0, stopped != 0
	if err := json.Unmarshal(text, &r.Workspace); err != nil {
		return r, fmt.Errorf("document of a workspace: %w", err)
	}
	return r, nil
}

// get returns sql.ErrNoRows for what is not there.
func (q session) get(ctx context.Context, id dayfly.ID) (Record, error) {
	return first(all(ctx, q, scanRecord, `SELECT `+recordColumns+` FROM workspaces WHERE id = $1`, string(id)))
}

func first[T any](found []T, err error) (T, error) {
	if err == nil && len(found) > 0 {
		return found[0], nil
	}
	var none T
	if err == nil {
		err = sql.ErrNoRows
	}
	return none, err
}

// columns are the arguments of insert and save, in their order.
func (r Record) columns() ([]any, error) {
	text, err := document(r.Workspace)
	if err != nil {
		return nil, err
	}
	return []any{
		string(r.ID), r.Name, string(r.State), bit(r.amounts().Running > 0),
		r.Spec.CPUs, r.Spec.MemoryMiB, r.Spec.DiskMiB, r.Spec.Image,
		bit(r.Durable), bit(r.StoppedByCaller), microsPtr(r.ExpiresAt), text,
	}, nil
}

func (q session) insert(ctx context.Context, r Record) error {
	args, err := r.columns()
	if err != nil {
		return err
	}
	_, err = q.exec(ctx, `INSERT INTO workspaces (id, name, state, running, cpus, memory_mib, disk_mib, image,
			durable, stopped_by_caller, expires_at, document, namespace, created_at, revision)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)`,
		append(args, r.Namespace, micros(r.CreatedAt), r.Revision)...)
	if err != nil {
		return r.taken(err)
	}
	return q.insertMetadata(ctx, r)
}

// save writes r over what is stored with its id.
func (q session) save(ctx context.Context, r Record, metadata bool) error {
	args, err := r.columns()
	if err != nil {
		return err
	}
	_, err = q.exec(ctx, `UPDATE workspaces SET name = $2, state = $3, running = $4, cpus = $5, memory_mib = $6, disk_mib = $7,
			image = $8, durable = $9, stopped_by_caller = $10, expires_at = $11, document = $12
		WHERE id = $1`, args...)
	if err != nil {
		return r.taken(err)
	}
	if !metadata {
		return nil
	}
	if _, err := q.exec(ctx, `DELETE FROM workspace_metadata WHERE id = $1`, string(r.ID)); err != nil {
		return err
	}
	return q.insertMetadata(ctx, r)
}

func (q session) insertMetadata(ctx context.Context, r Record) error {
	for _, key := range slices.Sorted(maps.Keys(r.Spec.Metadata)) {
		if _, err := q.exec(ctx, `INSERT INTO workspace_metadata (id, key, value) VALUES ($1, $2, $3)`,
			string(r.ID), key, r.Spec.Metadata[key]); err != nil {
			return err
		}
	}
	return nil
}

// taken says what is there already, if that is what err is about.
func (r Record) taken(err error) error {
	switch {
	case isDuplicateName(err):
		return dayfly.Errorf(dayfly.Conflict, "namespace %s has a workspace named %q already: choose another name, or delete that one", r.Namespace, r.Name)
	case duplicate(err) != "":
		return dayfly.Errorf(dayfly.Conflict, "workspace %s is there already", r.ID)
	}
	return err
}
