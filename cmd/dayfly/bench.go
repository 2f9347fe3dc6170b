package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

type benchFlags struct {
	n           int
	accel       string
	cpus        int
	memory      mebibytes
	json, quiet bool
}

func (a *app) benchCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "bench", Short: "Measure", Args: noArgs}
	var f benchFlags
	boot := &cobra.Command{
		Use:   "boot [IMAGE [CMD [ARG...]]]",
		Short: "Measure cold starts, one after another",
		Long: `Start a workspace of IMAGE (default: base) cold, run CMD (default: echo ready) in
it to its first output, delete it, and again. Printed are the times of those
that succeeded, from the request on, and where they went.`,
		Annotations: map[string]string{},
		RunE: func(c *cobra.Command, args []string) error {
			return a.withClient(c, func(ctx context.Context, cl *client.Client) error { return a.benchBoot(ctx, cl, &f, args) })
		},
		ValidArgsFunction: a.completeImages,
	}
	fl := boot.Flags()
	fl.SetInterspersed(false)
	fl.IntVarP(&f.n, "count", "n", 20, "number of starts")
	fl.StringVar(&f.accel, "accel", string(dayfly.Auto), "how guest instructions run: auto, kvm or tcg")
	fl.IntVar(&f.cpus, "cpus", dayfly.DefaultCPUs, "number of virtual CPUs")
	f.memory = dayfly.DefaultMemoryMiB
	fl.VarP(&f.memory, "memory", "m", "memory, such as 512M")
	fl.BoolVarP(&f.quiet, "quiet", "q", false, "show no progress")
	fl.BoolVar(&f.json, "json", false, "print JSON")
	cmd.AddCommand(boot)
	return cmd
}

// sample is one start, in milliseconds from the request.
type sample struct {
	Running     float64         `json:"running_ms"`
	FirstOutput float64         `json:"first_output_ms"`
	Deleted     float64         `json:"deleted_ms"`
	Timeline    dayfly.Timeline `json:"timeline"`
}

// summary is what n numbers come to.
type summary struct {
	Name string  `json:"name"`
	P50  float64 `json:"p50_ms"`
	P95  float64 `json:"p95_ms"`
	P99  float64 `json:"p99_ms"`
	Min  float64 `json:"min_ms"`
	Max  float64 `json:"max_ms"`
}

// benchReport is what bench boot --json prints.
type benchReport struct {
	Image     string           `json:"image"`
	Starts    int              `json:"starts"`
	Succeeded int              `json:"succeeded"`
	StartKind dayfly.StartKind `json:"start_kind"`
	Accel     dayfly.Accel     `json:"accel"`
	Kernel    string           `json:"kernel"`
	Totals    []summary        `json:"totals"`
	Stages    []summary        `json:"stages"`
	Errors    []string         `json:"errors,omitempty"`
	Samples   []sample         `json:"samples"`
}

func (a *app) benchBoot(ctx context.Context, cl *client.Client, f *benchFlags, args []string) error {
	if f.n < 1 {
		return dayfly.Errorf(dayfly.Invalid, "count is %d: use 1 or more", f.n)
	}
	if len(args) == 0 {
		args = []string{baseImage}
	}
	spec := dayfly.Spec{Image: args[0], CPUs: f.cpus, MemoryMiB: int(f.memory), Accel: dayfly.Accel(f.accel), Cold: true}
	command := []string{"echo", "ready"}
	if len(args) > 1 {
		command = afterDashes(args[1:])
	}
	rep := benchReport{Image: args[0], Starts: f.n}
	for i := range f.n {
		s, ws, err := oneBoot(ctx, cl, spec, command)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			rep.Errors = append(rep.Errors, describe(err))
		} else {
			rep.Succeeded++
			rep.Samples = append(rep.Samples, s)
			rep.StartKind, rep.Accel, rep.Kernel = ws.StartKind, ws.Accel, ws.Kernel
		}
		if !f.quiet {
			fmt.Fprintf(a.stderr, "start %d of %d: %s\n", i+1, f.n, outcome(s, err))
		}
		if i == 0 && err != nil { // the first says what is wrong; 19 more say the same
			return err
		}
	}
	rep.summarise()
	if f.json {
		return printJSON(a.stdout, rep)
	}
	return rep.print(a.stdout)
}

func outcome(s sample, err error) string {
	if err != nil {
		return describe(err)
	}
	return fmt.Sprintf("first output after %.0f ms", s.FirstOutput)
}

// oneBoot measures one start and leaves nothing of it.
func oneBoot(ctx context.Context, cl *client.Client, spec dayfly.Spec, command []string) (s sample, ws dayfly.Workspace, err error) {
	from := time.Now()
	ws, err = cl.Workspaces.Create(ctx, spec)
	if err != nil {
		return s, ws, err
	}
	s.Running, s.Timeline = ms(time.Since(from)), ws.Timeline
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
		defer cancel()
		if delErr := cl.Workspaces.Delete(end, ws.ID); err == nil {
			err = delErr
		}
		s.Deleted = ms(time.Since(from))
	}()
	out := &firstAfter{from: from}
	p, err := cl.Start(ctx, ws.ID, client.Command{Path: command[0], Args: command[1:], Stdout: out, Stderr: out})
	if err != nil {
		return s, ws, err
	}
	exit, err := p.Wait()
	switch {
	case err != nil:
		return s, ws, err
	case exit.Code != 0:
		return s, ws, fmt.Errorf("the command's exit code is %d", exit.Code)
	case out.took == 0:
		return s, ws, fmt.Errorf("the command wrote nothing")
	}
	s.FirstOutput = ms(out.took)
	return s, ws, nil
}

// firstAfter discards output and notes when it began.
type firstAfter struct {
	from time.Time
	took time.Duration
}

func (f *firstAfter) Write(p []byte) (int, error) {
	if f.took == 0 {
		f.took = time.Since(f.from)
	}
	return len(p), nil
}

func (r *benchReport) summarise() {
	pick := func(name string, of func(sample) (float64, bool)) summary {
		var v []float64
		for _, s := range r.Samples {
			if ms, ok := of(s); ok {
				v = append(v, ms)
			}
		}
		return summarise(name, v)
	}
	r.Totals = []summary{
		pick("running", func(s sample) (float64, bool) { return s.Running, true }),
		pick("first output", func(s sample) (float64, bool) { return s.FirstOutput, true }),
		pick("deleted", func(s sample) (float64, bool) { return s.Deleted, true }),
	}
	if len(r.Samples) == 0 {
		return
	}
	for _, st := range inOrder(r.Samples[0].Timeline) {
		name := st.Name
		if st.Within != "" {
			name = st.Within + "." + name
		}
		r.Stages = append(r.Stages, pick(name, func(s sample) (float64, bool) {
			i := slices.IndexFunc(s.Timeline, func(o dayfly.Stage) bool { return o.Name == st.Name && o.Within == st.Within })
			if i < 0 {
				return 0, false
			}
			return s.Timeline[i].Took, true
		}))
	}
}

func summarise(name string, v []float64) summary {
	s := summary{Name: name}
	if len(v) == 0 {
		return s
	}
	slices.Sort(v)
	s.P50, s.P95, s.P99 = percentile(v, 50), percentile(v, 95), percentile(v, 99)
	s.Min, s.Max = v[0], v[len(v)-1]
	return s
}

// percentile is the nearest-rank percentile of sorted values: always one that
// was measured.
func percentile(sorted []float64, p float64) float64 {
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[max(0, rank-1)]
}

func (r *benchReport) print(w io.Writer) error {
	fmt.Fprintf(w, "%s starts of %s: %d of %d succeeded (%.0f %%), %s, kernel %s\n\n", r.StartKind, r.Image,
		r.Succeeded, r.Starts, 100*float64(r.Succeeded)/float64(r.Starts), r.Accel, r.Kernel)
	rows := [][]string{{"MS FROM THE REQUEST", "P50", "P95", "P99", "MIN", "MAX"}}
	rows = append(rows, cells(r.Totals)...)
	rows = append(rows, []string{"", "", "", "", "", ""}, []string{"MS IN STAGE", "P50", "P95", "P99", "MIN", "MAX"})
	rows = append(rows, cells(r.Stages)...)
	if err := table(w, rows...); err != nil {
		return err
	}
	for _, e := range r.Errors {
		fmt.Fprintf(w, "failed: %s\n", e)
	}
	return nil
}

func cells(of []summary) [][]string {
	var rows [][]string
	for _, s := range of {
		row := []string{s.Name}
		for _, v := range []float64{s.P50, s.P95, s.P99, s.Min, s.Max} {
			row = append(row, fmt.Sprintf("%.1f", v))
		}
		rows = append(rows, row)
	}
	return rows
}
