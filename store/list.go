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
		condition = strings.Replace(condition, "?", w.hold(a), 1)
	}
	w.conditions = append(w.conditions, condition)
}

// hold adds an argument and returns its name.
func (w *where) hold(arg any) string {
	w.args = append(w.args, arg)
	return fmt.Sprintf("$%d", len(w.args))
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

// orders are how a list is sorted: by something that does not change, or, by
// name, that is kept for the list (see byname.go), and then by id.
var orders = map[dayfly.Order]struct{ by, behind string }{
	dayfly.NewestFirst: {"created_at DESC, id DESC", "(created_at, id) < (?, ?)"},
	dayfly.OldestFirst: {"created_at, id", "(created_at, id) > (?, ?)"},
	dayfly.ByName:      {"name, id", "(name, id) > (?, ?)"},
}

// maxStates bounds how many states a query may name: each of them twice.
const maxStates = 12

// List returns a page. What is there from the first page to the last is listed
// exactly once, whatever else comes and goes, and whatever is renamed.
func (s *Store) List(ctx context.Context, q dayfly.Query) (Page, error) {
	behind, err := checkQuery(&q)
	if err != nil {
		return Page{}, err
	}
	limit := pageSize(q.Limit)
	var found []listed
	var since int64
	// One more than asked for tells whether there is a next page.
	err = s.view(ctx, "list", func(db session) (err error) {
		if q.Order == dayfly.ByName {
			found, since, err = db.byName(ctx, q, behind, limit+1)
		} else {
			found, err = db.along(ctx, q, behind, limit+1)
		}
		return err
	})
	if err != nil {
		return Page{}, err
	}
	var page Page
	for _, l := range found[:min(len(found), limit)] {
		page.Records = append(page.Records, l.Record)
	}
	if len(found) > limit {
		page.Next, err = placeOf(found[limit-1], q.Order, since).encode()
	}
	return page, err
}

// checkQuery sets the default order, and returns the place that the page begins
// behind; nil: it is the first.
func checkQuery(q *dayfly.Query) (*cursor, error) {
	if q.Order == "" {
		q.Order = dayfly.NewestFirst
	}
	if _, ok := orders[q.Order]; !ok {
		return nil, dayfly.Errorf(dayfly.Invalid, "order is %.40q: use newest, oldest or name", q.Order)
	}
	if len(q.States) > maxStates {
		return nil, dayfly.Errorf(dayfly.Invalid, "%d states are named: there are only %d", len(q.States), len(dayfly.States()))
	}
	if q.Cursor == "" {
		return nil, nil
	}
	c, err := decodeCursor(q.Cursor, q.Order)
	return &c, err
}

// along returns up to n records behind a place, as they are sorted now.
func (q session) along(ctx context.Context, query dayfly.Query, behind *cursor, n int) ([]listed, error) {
	w := conditionsOf(query, &where{})
	order := orders[query.Order]
	switch {
	case behind == nil:
	case query.Order == dayfly.ByName:
		w.and(order.behind, behind.Name, behind.ID)
	default:
		w.and(order.behind, behind.Created, behind.ID)
	}
	return all(ctx, q, scanListed,
		fmt.Sprintf(`SELECT %s, name, id FROM workspaces%s ORDER BY %s LIMIT %d`, recordColumns, &w, order.by, n), w.args...)
}

func placeOf(l listed, order dayfly.Order, since int64) cursor {
	c := cursor{Order: order, ID: string(l.ID)}
	if order == dayfly.ByName {
		c.Name, c.Renames = l.as, since
	} else {
		c.Created = micros(l.CreatedAt)
	}
	return c
}

// conditionsOf is what a query selects by, with the arguments behind those of
// others in the statement.
func conditionsOf(q dayfly.Query, others *where) where {
	w := where{args: others.args}
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
