package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dayfly/dayfly/undo"
)

// subject is one thing that is measured, for one series or several.
type subject struct {
	name   string
	series []string // that a sample is noted in; where it fails, in all of them
	warm   int      // samples before the first that counts: caches warm, seeds and templates made
	once   func(context.Context) (notes, error)
}

// notes are what one sample came to, by series.
type notes map[string][]float64

// timed makes a subject with one series, of its name, of something that is timed.
func timed(name string, warm int, do func(context.Context) (time.Duration, error)) subject {
	return subject{name, []string{name}, warm, func(ctx context.Context) (notes, error) {
		took, err := do(ctx)
		return notes{name: {ms(took)}}, err
	}}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }

// group is subjects that are measured in turn. What they share is made for the
// group and taken back after it.
type group struct {
	name     string
	parts    []string // that -only can name
	once     bool     // one round, whatever is asked for
	subjects func(context.Context, bed, *undo.Stack) ([]subject, error)
}

// Parts of the starts: each is measured beside run, bare and container.
const (
	partCold    = "cold"
	partRestore = "restore"
	partClaim   = "claim"
)

var groups = []group{
	{"starts", []string{partCold, partRestore, partClaim}, false, starts},
	{"jails", []string{"jail"}, false, jails},
	{"pauses", []string{"pause"}, false, pauses},
	{"forks", []string{"fork"}, false, forks},
	{"memory", []string{"memory"}, true, memories},
	{"service", []string{"service"}, false, services},
	{"neighbours", []string{"neighbour"}, false, neighbours},
}

// parts lists what -only may name.
func parts() (names []string) {
	for _, g := range groups {
		names = append(names, g.parts...)
	}
	return names
}

// wants reports whether one of the parts is to be measured.
func (o options) wants(some ...string) bool {
	if o.only == "" {
		return true
	}
	return slices.ContainsFunc(strings.Split(o.only, ","), func(p string) bool { return slices.Contains(some, p) })
}

func (o options) check() error {
	if o.state == "" {
		return fmt.Errorf("no -state: name a directory with an image and a kernel (make bench does)")
	}
	if o.n < 1 {
		return fmt.Errorf("-n is %d: take at least one sample", o.n)
	}
	if o.only == "" {
		return nil
	}
	for p := range strings.SplitSeq(o.only, ",") {
		if !slices.Contains(parts(), p) {
			return fmt.Errorf("-only has %q: the parts are %s", p, strings.Join(parts(), ", "))
		}
	}
	return nil
}
