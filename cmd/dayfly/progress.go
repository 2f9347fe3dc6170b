package main

import (
	"fmt"
	"io"
	"sync"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/dayfly/dayfly"
)

// progress shows long work on standard error: bars on a terminal, else a line
// for each step, or nothing.
type progress struct {
	w    io.Writer
	what string

	mu   sync.Mutex
	bars *mpb.Progress       // nil: lines
	of   map[string]*mpb.Bar // by step
	seen map[string]bool
}

func (a *app) progress(what string, quiet bool) *progress {
	p := &progress{what: what, of: map[string]*mpb.Bar{}, seen: map[string]bool{}}
	if quiet {
		return p
	}
	p.w = a.stderr
	if f, ok := file(a.stderr); ok && term.IsTerminal(int(f.Fd())) {
		p.bars = mpb.New(mpb.WithOutput(f), mpb.WithWidth(barWidth))
	}
	return p
}

// Report takes one report of the work.
func (p *progress) Report(r dayfly.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.w == nil:
	case p.bars == nil:
		p.line(r)
	default:
		p.bar(r)
	}
}

// line tells of a step when it begins and when it is complete.
func (p *progress) line(r dayfly.Progress) {
	complete := r.Total > 0 && r.Done >= r.Total
	switch key := fmt.Sprint(r.Step, complete); {
	case p.seen[key]:
		return
	default:
		p.seen[key] = true
	}
	switch {
	case complete:
		fmt.Fprintf(p.w, "%s: %s: done (%s)\n", p.what, r.Step, humanBytes(r.Total))
	case r.Total > 0:
		fmt.Fprintf(p.w, "%s: %s: %s\n", p.what, r.Step, humanBytes(r.Total))
	default:
		fmt.Fprintf(p.w, "%s: %s\n", p.what, r.Step)
	}
}

func (p *progress) bar(r dayfly.Progress) {
	b := p.of[r.Step]
	if b == nil {
		b = p.bars.New(r.Total, mpb.BarStyle().Lbound("").Rbound("").Filler("━").Tip("━").Padding(" "),
			mpb.PrependDecorators(decor.Name(r.Step, decor.WCSyncSpaceR)),
			mpb.AppendDecorators(decor.Any(func(s decor.Statistics) string { return counted(s.Current, s.Total) }, decor.WCSyncSpace)))
		p.of[r.Step] = b
	}
	if r.Total > 0 {
		b.SetTotal(r.Total, r.Done >= r.Total)
	}
	b.SetCurrent(r.Done)
}

func counted(done, total int64) string {
	switch {
	case total <= 0 && done <= 0:
		return "…"
	case total <= 0:
		return humanBytes(done)
	}
	return humanBytes(done) + " / " + humanBytes(total)
}

// Close leaves the bars as they are and waits until they are drawn.
func (p *progress) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bars == nil {
		return
	}
	for _, b := range p.of {
		if !b.Completed() {
			b.Abort(false)
		}
	}
	p.bars.Wait()
	p.bars = nil
	p.w = nil
}

// humanBytes writes a size for people.
func humanBytes(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/unit, 0
	for ; v >= unit && i < 3; i++ {
		v /= unit
	}
	return fmt.Sprintf("%.1f %ciB", v, "KMGT"[i])
}
