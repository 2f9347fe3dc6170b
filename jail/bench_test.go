package jail

import (
	"context"
	"slices"
	"testing"
	"time"
)

// BenchmarkStart is from the wish for a process to its first word: without a
// jail, in one that waited, and in one that is made for it.
func BenchmarkStart(b *testing.B) {
	shapes := []struct {
		name  string
		shape func(testing.TB) Shape
		run   func(testing.TB, *Jail)
	}{
		{"program", self, func(t testing.TB, j *Jail) { output(t, j, say("x")) }},
		{"qemu", qemuShape, func(t testing.TB, j *Jail) { startQEMU(t, j, nil) }},
	}
	for _, s := range shapes {
		b.Run(s.name+"/bare", func(b *testing.B) { benchStart(b, None(nil), s.shape(b), s.run, false) })
		b.Run(s.name+"/pooled", func(b *testing.B) { benchStart(b, openPool(b, testOptions(b)), s.shape(b), s.run, true) })
		b.Run(s.name+"/unpooled", func(b *testing.B) { benchStart(b, openPool(b, testOptions(b)), s.shape(b), s.run, false) })
	}
}

func benchStart(b *testing.B, p *Pool, shape Shape, run func(testing.TB, *Jail), pooled bool) {
	spec := Spec{Shape: shape, Limits: Limits{Memory: 512 << 20}}
	var took []time.Duration
	for b.Loop() {
		b.StopTimer()
		if pooled {
			j, err := p.make(context.Background(), shape)
			if err != nil {
				b.Fatal(err)
			}
			p.keep(j)
		}
		b.StartTimer()
		began := time.Now()
		j, err := p.Take(context.Background(), spec)
		if err != nil {
			b.Fatal(err)
		}
		run(b, j)
		took = append(took, time.Since(began))
		b.StopTimer()
		if err := j.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	// A shared machine's mean says more of the others on it.
	slices.Sort(took)
	for name, d := range map[string]time.Duration{"ms-best": took[0], "ms-p50": took[len(took)/2]} {
		b.ReportMetric(float64(d)/float64(time.Millisecond), name)
	}
}
