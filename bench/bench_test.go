package main

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/dayfly/dayfly/undo"
)

// row is a line of the table in BUDGETS.md: id and budget.
var row = regexp.MustCompile("(?m)^\\| `([a-z0-9.]+)` \\| (≤ )?([0-9.]+)")

// TestBudgetsAreListed: BUDGETS.md has every budget that is checked, with its
// number, in the same order, and no other.
func TestBudgetsAreListed(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("BUDGETS.md")
	if err != nil {
		t.Fatal(err)
	}
	var listed, checked []string
	for _, m := range row.FindAllStringSubmatch(string(b), -1) {
		listed = append(listed, m[1]+" "+m[3])
	}
	for _, budget := range budgets {
		checked = append(checked, fmt.Sprintf("%s %v", budget.id, budget.most))
	}
	if !slices.Equal(listed, checked) {
		t.Errorf("BUDGETS.md lists\n%s\nbut checked are\n%s", strings.Join(listed, "\n"), strings.Join(checked, "\n"))
	}
}

// TestEverySeriesOfABudgetIsMeasured also sees that no name is there twice.
func TestEverySeriesOfABudgetIsMeasured(t *testing.T) {
	t.Parallel()
	names := map[string]bool{}
	for _, s := range allSeries {
		if names[s.name] {
			t.Errorf("series %s is there twice", s.name)
		}
		names[s.name] = true
	}
	for _, b := range budgets {
		for _, name := range b.of {
			if !names[name] {
				t.Errorf("budget %s is of %s, which is no series", b.id, name)
			}
		}
	}
}

func TestQuantilesAreNearestRank(t *testing.T) {
	t.Parallel()
	s := &samples{Values: []float64{5, 1, 4, 2, 3}}
	for q, want := range map[float64]float64{0: 1, .5: 3, .95: 5, 1: 5} {
		if got := s.quantile(q); got != want {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
}

// TestWhatFailsMeetsNoBudget: neither a series without a value, nor one that is
// compared with one.
func TestWhatFailsMeetsNoBudget(t *testing.T) {
	t.Parallel()
	ok, none := &samples{Values: []float64{1}}, &samples{Failed: []string{"boom"}}
	for name, got := range map[string]float64{
		"p50": p50([]*samples{ok, none}), "p99": p99([]*samples{none, ok}), "failures": failures([]*samples{ok, none}),
		"ratio": ratio([]*samples{none, ok}), "ratio of nothing": ratio([]*samples{none, none}), "ratio to nothing": ratio([]*samples{ok, none}),
	} {
		if got <= .9 {
			t.Errorf("%s is %v", name, got)
		}
	}
}

func TestUnmeasuredBudgetsAreLeftOut(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	all := results{"run": {Values: []float64{1}}}
	if err := check(&out, all); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(out.String(), "budget "); got != 2 { // cold.run.p50, cold.run.failures
		t.Errorf("%d budgets were checked:\n%s", got, out.String())
	}
	all["run"].Values[0] = math.Inf(1)
	if err := check(io.Discard, all); err == nil {
		t.Error("an exceeded budget is no error")
	}
}

// TestFailureIsNotedInEverySeries of its subject.
func TestFailureIsNotedInEverySeries(t *testing.T) {
	t.Parallel()
	all, s := results{}, subject{series: []string{"run", "bare"}}
	all.add(s, notes{"run": {1}, "bare": {2}}, nil)
	all.add(s, nil, errors.New("boom"))
	for _, name := range s.series {
		if got := all[name]; len(got.Values) != 1 || len(got.Failed) != 1 || got.success() != .5 {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// TestIntervalOfADifference holds it, is as narrow as the pairs allow, whatever
// drifts under both, and is the same each time.
func TestIntervalOfADifference(t *testing.T) {
	t.Parallel()
	var a, b samples
	for i := range 200 {
		drift := float64(i % 50)
		a.Values, b.Values = append(a.Values, 32+drift), append(b.Values, 30+drift)
	}
	if low, high := interval(&a, &b); low != 2 || high != 2 {
		t.Errorf("what is always 2 more is between %v and %v", low, high)
	}
	for i := range a.Values {
		a.Values[i] += float64(i%7) - 3
	}
	low, high := interval(&a, &b)
	if got := difference([]*samples{&a, &b}); low > got || got > high || low == high {
		t.Errorf("%v is not between %v and %v", got, low, high)
	}
	if l, h := interval(&a, &b); l != low || h != high {
		t.Error("it is another one the second time")
	}
	if low, high := interval(&samples{}, &b); !math.IsInf(low, 1) || !math.IsInf(high, 1) {
		t.Errorf("of nothing it is %v to %v", low, high)
	}
}

// TestKernelThatIdlesIsOne as a VMM looks for: an ELF file with the note of a PVH
// guest's entry, which is where its code is.
func TestKernelThatIdlesIsOne(t *testing.T) {
	t.Parallel()
	f, err := elf.NewFile(bytes.NewReader(idleELF()))
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Progs) != 2 || f.Progs[0].Type != elf.PT_LOAD || f.Progs[1].Type != elf.PT_NOTE {
		t.Fatalf("its segments are %v", f.Progs)
	}
	note := make([]byte, f.Progs[1].Filesz)
	if _, err := f.Progs[1].ReadAt(note, 0); err != nil {
		t.Fatal(err)
	}
	if entry := binary.LittleEndian.Uint64(note[16:]); string(note[12:16]) != "Xen\x00" || entry != f.Entry {
		t.Errorf("the note is %q", note)
	}
	code := make([]byte, 2)
	if _, err := f.Progs[0].ReadAt(code, int64(f.Entry-f.Progs[0].Vaddr)); err != nil || code[1] != 0xf4 {
		t.Errorf("it begins with %x, and does not halt: %v", code, err)
	}
}

// TestGroupIsTakenBackWhateverHappens: what a group's subjects were made with goes
// after the last sample, after a failed one, and when making them failed.
func TestGroupIsTakenBackWhateverHappens(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	for _, fails := range []struct{ making, warming bool }{{false, false}, {false, true}, {true, false}} {
		gone, ran := 0, 0
		g := group{name: "test", subjects: func(_ context.Context, _ bed, back *undo.Stack) ([]subject, error) {
			back.Push("thing", func(context.Context) error { gone++; return nil })
			if fails.making {
				return nil, boom
			}
			return []subject{{"run", []string{"run"}, 1, func(context.Context) (notes, error) {
				if fails.warming {
					return nil, boom
				}
				ran++
				return notes{"run": {1}}, nil
			}}}, nil
		}}
		all := results{}
		err := measure(t.Context(), bed{options: options{n: 2}}, g, all)
		if bad := fails.making || fails.warming; errors.Is(err, boom) != bad || gone != 1 {
			t.Errorf("%+v: it returned %v and took back %d things", fails, err, gone)
		} else if !bad && (ran != 3 || len(all["run"].Values) != 2) {
			t.Errorf("it took %d samples and counted %d, want 3 and 2", ran, len(all["run"].Values))
		}
	}
}

func TestUnknownPartIsRefused(t *testing.T) {
	t.Parallel()
	o := options{state: "/", n: 1, only: "restore,claim"}
	if err := o.check(); err != nil || !o.wants("claim") || o.wants("pause", "fork") {
		t.Errorf("%v; wanted: %t, %t", err, o.wants("claim"), o.wants("pause", "fork"))
	}
	o.only = "restores"
	if err := o.check(); err == nil {
		t.Error("a part that is none was taken")
	}
}

// smapsText is two mappings of a VMM: its guest's RAM, as a private mapping of a
// file that is all of a mount, and its heap.
const smapsText = `7f0000000000-7f0020000000 rw-p 00000000 00:01 2051                       /
Size:             524288 kB
Pss:               61000 kB
Anonymous:         41000 kB
VmFlags: rd wr mr mw me sd
7f0030000000-7f0030021000 rw-p 00000000 00:00 0                          [heap]
Pss:                 132 kB
Anonymous:           132 kB
`

func TestGuestPagesAreToldFromTheVMMs(t *testing.T) {
	t.Parallel()
	for field, want := range map[string]int64{"Anonymous:": 41000, "Pss:": 61000} {
		if got, err := sumField(strings.NewReader(smapsText), field, isRAM); err != nil || got != want {
			t.Errorf("%s %d, %v; want %d", field, got, err, want)
		}
	}
	if got, err := sumField(strings.NewReader(smapsText), "Pss:", func(int64) bool { return true }); err != nil || got != 61132 {
		t.Errorf("in all %d, %v", got, err)
	}
	if _, err := sumField(strings.NewReader(smapsText), "Pss:", func(bytes int64) bool { return bytes == 1 }); err == nil {
		t.Error("a VMM without RAM is no error")
	}
}
