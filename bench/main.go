// Command bench measures what Dayfly claims, each number beside references
// taken in the same run, one after the other in turn (A B C A B C …), since on
// a shared machine a time alone proves nothing. It prints a table, checks the
// budgets of BUDGETS.md, and ends with status 1 if one is exceeded.
//
//	go run ./bench -dayfly bin/dayfly -state DIR -n 20
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"time"
)

// options are the flags.
type options struct {
	dayfly string
	state  string
	image  string
	accel  string
	n      int
	json   bool
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("bench: ")
	var o options
	flag.StringVar(&o.dayfly, "dayfly", "bin/dayfly", "the `binary` to measure")
	flag.StringVar(&o.state, "state", "", "state `directory` with the image and a kernel")
	flag.StringVar(&o.image, "image", "base", "`image` to start")
	flag.StringVar(&o.accel, "accel", "auto", "accelerator: auto, kvm or tcg")
	flag.IntVar(&o.n, "n", 20, "`samples` of each subject")
	flag.BoolVar(&o.json, "json", false, "print all samples as JSON")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, o)
	stop()
	if err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, o options) error {
	subjects, closeAll, err := newSubjects(ctx, o)
	if err != nil {
		return err
	}
	defer closeAll()
	for _, s := range subjects { // once each, uncounted: caches warm, seeds made
		if _, err := s.once(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	series := map[string]*samples{}
	for _, s := range subjects {
		series[s.name] = &samples{}
	}
	for i := range o.n {
		for _, s := range subjects {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			took, err := s.once(ctx)
			series[s.name].add(took, err)
		}
		fmt.Fprintf(os.Stderr, "\rround %d of %d", i+1, o.n)
	}
	fmt.Fprintln(os.Stderr)
	if o.json {
		return json.NewEncoder(os.Stdout).Encode(series)
	}
	report(os.Stdout, subjects, series)
	return check(os.Stdout, series)
}

func report(w io.Writer, subjects []subject, series map[string]*samples) {
	fmt.Fprintf(w, "%s/%s, %d CPUs, %s\n", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), time.Now().UTC().Format(time.DateOnly))
	fmt.Fprintf(w, "%-12s %8s %8s %8s %9s  %s\n", "subject", "p50 ms", "p95 ms", "p99 ms", "success", "what")
	for _, s := range subjects {
		v := series[s.name]
		fmt.Fprintf(w, "%-12s %8.0f %8.0f %8.0f %8.0f%%  %s\n", s.name, v.quantile(.5), v.quantile(.95), v.quantile(.99), v.success()*100, s.what)
	}
}

// check holds the series against the budgets.
func check(w io.Writer, series map[string]*samples) error {
	exceeded := 0
	for _, b := range budgets {
		got := b.value(series)
		verdict := "ok"
		if !(got <= b.most) {
			verdict = "EXCEEDED"
			exceeded++
		}
		fmt.Fprintf(w, "budget %-28s %8.2f of %8.2f %-2s  %s\n", b.id, got, b.most, b.unit, verdict)
	}
	if exceeded > 0 {
		return fmt.Errorf("%d of %d budgets exceeded", exceeded, len(budgets))
	}
	return nil
}

// stateOf returns the state directory, which must have been prepared.
func stateOf(o options) (string, error) {
	if o.state == "" {
		return "", fmt.Errorf("no -state: name a directory with an image and a kernel (make bench does)")
	}
	return filepath.Abs(o.state)
}
