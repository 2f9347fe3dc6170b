package store

import (
	"context"
	"fmt"
	"strings"

	"github.com/dayfly/dayfly"
)

const (
	minPrefix     = 4  // of an id: fewer characters are more often a mistake
	maxCandidates = 10 // that an error lists
)

// Find returns the workspace that ref means in a namespace, or, if that is
// empty, in all: by its id, its name, or the beginning of its id. Conflict: there
// are several, some of which the error lists.
func (s *Store) Find(ctx context.Context, namespace, ref string) (Record, error) {
	var found Record
	err := s.view(ctx, "find", func(q session) error {
		for _, way := range waysToFind(ref) {
			w := way
			if namespace != "" {
				w.and("namespace = ?", namespace)
			}
			records, err := all(ctx, q, scanRecord,
				fmt.Sprintf(`SELECT %s FROM workspaces%s ORDER BY id LIMIT %d`, recordColumns, &w, maxCandidates+1), w.args...)
			switch {
			case err != nil:
				return err
			case len(records) > 1:
				return ambiguous(ref, records)
			case len(records) == 1:
				found = records[0]
				return nil
			}
		}
		return dayfly.Errorf(dayfly.NotFound, "there is no workspace %q", ref)
	})
	return found, err
}

// waysToFind are tried in order: who knows an id means it, and a name comes
// before what may only be the beginning of an id.
func waysToFind(ref string) []where {
	var id, name, prefix where
	if ref == "" {
		return nil
	}
	id.and("id = ?", ref)
	name.and("name = ?", ref)
	if len(ref) < minPrefix || strings.Trim(ref, "abcdefghijklmnopqrstuvwxyz234567") != "" {
		return []where{id, name}
	}
	prefix.and("id >= ?", ref)
	prefix.and("id < ?", ref+"~") // which sorts behind all that an id is made of
	return []where{id, name, prefix}
}

func ambiguous(ref string, candidates []Record) error {
	var names []string
	for _, r := range candidates {
		names = append(names, fmt.Sprintf("%s (%s)", r.ID, r.Namespace))
	}
	if len(names) > maxCandidates {
		names = append(names[:maxCandidates], "and more")
	}
	return dayfly.Errorf(dayfly.Conflict, "%q may be several workspaces: name one of %s", ref, strings.Join(names, ", "))
}
