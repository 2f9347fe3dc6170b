package main

import (
	"os"
	"strings"
	"testing"
)

// TestBudgetsAreListed: every budget that is checked is in BUDGETS.md.
func TestBudgetsAreListed(t *testing.T) {
	b, err := os.ReadFile("BUDGETS.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, budget := range budgets {
		if !strings.Contains(string(b), "| `"+budget.id+"` |") {
			t.Errorf("BUDGETS.md lacks %s", budget.id)
		}
	}
}

func TestQuantilesAreNearestRank(t *testing.T) {
	s := &samples{Millis: []float64{5, 1, 4, 2, 3}}
	for q, want := range map[float64]float64{0: 1, .5: 3, .95: 5, 1: 5} {
		if got := s.quantile(q); got != want {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
}
