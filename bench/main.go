// Command bench measures what Dayfly claims, each number beside references
// taken in the same run, one after the other in turn (A B C A B C …), since on
// a shared machine a time alone proves nothing. It prints a table, checks the
// budgets of BUDGETS.md, and ends with status 1 if one is exceeded.
//
//	go run ./bench -dayfly bin/dayfly -state DIR -n 20
//	go run ./bench -dayfly bin/dayfly -state DIR -only restore,claim
//
// Of the state directory it uses images and kernels. All else it makes in a
// directory in there which goes at the end, also after an error or Ctrl-C, as
// do the processes it started.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/dayfly/dayfly/undo"
)

// options are the flags.
type options struct {
	dayfly string
	state  string
	image  string
	accel  string
	only   string
	n      int
	json   bool
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("bench: ")
	var o options
	flag.StringVar(&o.dayfly, "dayfly", "bin/dayfly", "the `binary` to measure")
	flag.StringVar(&o.state, "state", "", "state `directory` with the image and a kernel")
	flag.StringVar(&o.image, "image", "base", "`image` to start; it has sh, echo and python3")
	flag.StringVar(&o.accel, "accel", "auto", "accelerator: auto, kvm or tcg")
	flag.StringVar(&o.only, "only", "", "`parts` to measure, with commas between: "+strings.Join(parts(), ", ")+"; default: all")
	flag.IntVar(&o.n, "n", 20, "`samples` of each series; of memory there is one for every clone")
	flag.BoolVar(&o.json, "json", false, "print all samples as JSON")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx, o)
	stop()
	if err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, o options) (err error) {
	if err := o.check(); err != nil {
		return err
	}
	var back undo.Stack
	defer func() { err = errors.Join(err, back.Run(ctx)) }()
	b, err := newBed(o, &back)
	if err != nil {
		return err
	}
	began := time.Now()
	all := results{}
	var errs []error // a group that cannot be measured keeps no other from it
	for _, g := range groups {
		if ctx.Err() != nil || !o.wants(g.parts...) {
			continue
		}
		if err := measure(ctx, b, g, all); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", g.name, err))
		}
	}
	if o.json {
		return errors.Join(append(errs, json.NewEncoder(os.Stdout).Encode(all))...)
	}
	report(os.Stdout, all, time.Since(began))
	return errors.Join(append(errs, check(os.Stdout, all))...)
}

// measure makes the subjects of a group, takes their samples in turn, and takes
// back what it made.
func measure(ctx context.Context, b bed, g group, all results) (err error) {
	defer fmt.Fprintln(os.Stderr)
	var back undo.Stack
	defer func() { err = errors.Join(err, back.Run(ctx)) }()
	fmt.Fprintf(os.Stderr, "%s: making ready", g.name)
	subjects, err := g.subjects(ctx, b, &back)
	if err != nil {
		return err
	}
	for _, s := range subjects {
		for range s.warm {
			if _, err := s.once(ctx); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	rounds := b.n
	if g.once {
		rounds = 1
	}
	for i := range rounds {
		for _, s := range subjects {
			notes, err := s.once(ctx)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			all.add(s, notes, err)
		}
		fmt.Fprintf(os.Stderr, "\r%s: round %d of %d  ", g.name, i+1, rounds)
	}
	return nil
}
