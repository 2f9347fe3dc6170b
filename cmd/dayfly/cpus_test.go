package main

import "testing"

func TestFractionOfACPUIsALimit(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]processors{
		"2": {2, 0}, "0.25": {1, 0.25}, "1.5": {2, 1.5}, "1.0": {1, 0}, "32": {32, 0},
	} {
		var p processors
		if err := p.Set(in); err != nil || p != want {
			t.Errorf("%s is %+v, %v; want %+v", in, p, err, want)
		}
	}
	for _, in := range []string{"", "x", "0", "-1", "0.01", "33", "NaN", "Inf", "1e9"} {
		if err := new(processors).Set(in); err == nil {
			t.Errorf("%q is taken for a number of CPUs", in)
		}
	}
}
