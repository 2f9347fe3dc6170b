package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/dayfly/dayfly"
)

// where collects conditions and their arguments.
type where struct {
	conditions []string
	args       []any
}

// and adds a condition in which each ? is one of args.
func (w *where) and(condition string, args ...any) {
	for _, a := range args {
		w.args = append(w.args, a)
		condition = strings.Replace(condition, "?", fmt.Sprintf("$%d", len(w.args)), 1)
	}
	w.conditions = append(w.conditions, condition)
}

// in adds that a column is one of values; none: any.
func in[T ~string](w *where, column string, values []T) {
	if len(values) == 0 {
		return
	}
	var args []any
	for _, v := range values {
		args = append(args, string(v))
	}
	w.and(column+" IN (?"+strings.Repeat(", ?", len(args)-1)+")", args...)
}

func (w *where) String() string {
	if len(w.conditions) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(w.conditions, " AND ")
}

// orders are how a list is sorted: always by something that does not change,
// or, by name, that seldom does, and then by id.
var orders = map[dayfly.Order]struct{ by, behind string }{
	dayfly.NewestFirst: {"created_at DESC, id DESC", "(created_at, id) < (?, ?)"},
	dayfly.OldestFirst: {"created_at, id", "(created_at, id) > (?, ?)"},
	dayfly.ByName:      {"name, id", "(name, id) > (?, ?)"},
}

// maxStates bounds how many states a query may name: each of them twice.
const maxStates = 12

// List returns a page. What is there from the first page to the last is listed
// exactly once while others come and go; in the order by name, a workspace that
// is renamed meanwhile may be listed twice or not at all.
func (s *Store) List(ctx context.Context, q dayfly.Query) (Page, error) {
	if q.Order == "" {
		q.Order = dayfly.NewestFirst
	}
	order, ok := orders[q.Order]
	if !ok {
		return Page{}, dayfly.Errorf(dayfly.Invalid, "order is %.40q: use newest, oldest or name", q.Order)
	}
	if len(q.States) > maxStates {
		return Page{}, dayfly.Errorf(dayfly.Invalid, "%d states are named: there are only %d", len(q.States), len(dayfly.States()))
	}
	limit := pageSize(q.Limit)
	w := conditionsOf(q)
	if q.Cursor != "" {
		c, err := decodeCursor(q.Cursor, q.Order)
		if err != nil {
			return Page{}, err
		}
		if q.Order == dayfly.ByName {
			w.and(order.behind, c.Name, c.ID)
		} else {
			w.and(order.behind, c.Created, c.ID)
		}
	}
	// One more than asked for tells whether there is a next page.
	query := fmt.Sprintf(`SELECT %s FROM workspaces%s ORDER BY %s LIMIT %d`, recordColumns, &w, order.by, limit+1)
	var page Page
	err := s.view(ctx, "list", func(db session) error {
		found, err := all(ctx, db, scanRecord, query, w.args...)
		page.Records = found
		return err
	})
	if err != nil || len(page.Records) <= limit {
		return page, err
	}
	page.Records = page.Records[:limit]
	page.Next, err = placeOf(page.Records[limit-1], q.Order).encode()
	return page, err
}

func placeOf(r Record, order dayfly.Order) cursor {
	c := cursor{Order: order, ID: string(r.ID)}
	if order == dayfly.ByName {
		c.Name = r.Name
	} else {
		c.Created = micros(r.CreatedAt)
	}
	return c
}

func conditionsOf(q dayfly.Query) where {
	var w where
	if q.Namespace != "" {
		w.and("namespace = ?", q.Namespace)
	}
	in(&w, "state", q.States)
	if q.Name != "" {
		w.and("name = ?", q.Name)
	}
	if q.Image != "" {
		w.and("image = ?", q.Image)
	}
	for _, key := range slices.Sorted(maps.Keys(q.Metadata)) {
		w.and("id IN (SELECT id FROM workspace_metadata WHERE key = ? AND value = ?)", key, q.Metadata[key])
	}
	return w
}

func pageSize(asked int) int {
	if asked <= 0 {
		return dayfly.DefaultPage
	}
	return min(asked, dayfly.MaxPage)
}

// Each calls f for every record, oldest first, until it returns an error. f may
// use the store.
func (s *Store) Each(ctx context.Context, f func(Record) error) error {
	q := dayfly.Query{Order: dayfly.OldestFirst, Limit: dayfly.MaxPage}
	for {
		page, err := s.List(ctx, q)
		if err != nil {
			return err
		}
		for _, r := range page.Records {
			if err := f(r); err != nil {
				return err
			}
		}
		if q.Cursor = page.Next; q.Cursor == "" {
			return nil
		}
	}
}

// Counts returns how many workspaces are in each state that any is in.
func (s *Store) Counts(ctx context.Context) (map[dayfly.State]int, error) {
	var counts map[dayfly.State]int
	err := s.view(ctx, "count", func(q session) error {
		counts = map[dayfly.State]int{}
		_, err := all(ctx, q, func(r *sql.Rows) (dayfly.State, error) {
			var state dayfly.State
			var n int
			err := r.Scan(&state, &n)
			counts[state] = n
			return state, err
		}, `SELECT state, COUNT(*) FROM workspaces GROUP BY state`)
		return err
	})
	return counts, err
}

// Get returns a record by its id.
func (s *Store) Get(ctx context.Context, id dayfly.ID) (Record, error) {
	var r Record
	err := s.view(ctx, "get", func(q session) (err error) {
		r, err = q.get(ctx, id)
		if errors.Is(err, sql.ErrNoRows) {
			err = dayfly.Errorf(dayfly.NotFound, "there is no workspace %s", id)
		}
		return err
	})
	return r, err
}
