package undo_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/dayfly/dayfly/undo"
)

func TestLastMadeIsTakenBackFirst(t *testing.T) {
	t.Parallel()
	var s undo.Stack
	var order []string
	for _, name := range []string{"file", "process", "mount"} {
		s.Push(name, func(context.Context) error { order = append(order, name); return nil })
	}
	if err := s.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := []string{"mount", "process", "file"}; !slices.Equal(order, want) {
		t.Fatalf("order = %v, want %v", order, want)
	}
	if err := s.Run(t.Context()); err != nil || len(order) != 3 {
		t.Fatalf("second Run = %v and ran steps again: %v", err, order)
	}
}

func TestBrokenStepDoesNotStopTheOthers(t *testing.T) {
	t.Parallel()
	errBoom := errors.New("boom")
	var s undo.Stack
	ran := false
	s.Push("first", func(context.Context) error { ran = true; return nil })
	s.Push("fails", func(context.Context) error { return errBoom })
	s.Push("panics", func(context.Context) error { panic("bang") })
	err := s.Run(t.Context())
	if !errors.Is(err, errBoom) || !strings.Contains(err.Error(), "undo panics: panic: bang") || !ran {
		t.Fatalf("Run = %v, first step ran: %v", err, ran)
	}
}

func TestCancellationDoesNotReachSteps(t *testing.T) {
	t.Parallel()
	type key struct{}
	ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "kept"))
	cancel()
	var s undo.Stack
	s.Push("file", func(ctx context.Context) error {
		if ctx.Value(key{}) != "kept" {
			t.Error("the context's values are gone")
		}
		return ctx.Err()
	})
	if err := s.Run(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestHangingStepEndsAtItsDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var s undo.Stack
		ran := false
		s.Push("first", func(ctx context.Context) error { ran = true; return ctx.Err() })
		s.Push("hangs", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		if err := s.Run(t.Context()); !errors.Is(err, context.DeadlineExceeded) || !ran {
			t.Fatalf("Run = %v, first step ran: %v", err, ran)
		}
	})
}

func TestKeptWorkStays(t *testing.T) {
	t.Parallel()
	var s undo.Stack
	s.Push("file", func(context.Context) error { t.Error("kept work was taken back"); return nil })
	s.Keep()
	if err := s.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestDroppedStepStaysAndTheRestGoes(t *testing.T) {
	t.Parallel()
	var s undo.Stack
	var order []int
	for i := range 3 {
		s.Push("file", func(context.Context) error { order = append(order, i); return nil })
	}
	if !s.Drop("file") || s.Drop("mount") {
		t.Fatal("Drop did not tell a known name from an unknown one")
	}
	_ = s.Run(t.Context())
	if want := []int{1, 0}; !slices.Equal(order, want) {
		t.Fatalf("order = %v, want %v", order, want)
	}
}

func TestPushFromManyGoroutinesLosesNothing(t *testing.T) {
	t.Parallel()
	var s undo.Stack
	var ran int
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() { s.Push("n", func(context.Context) error { ran++; return nil }) })
	}
	wg.Wait()
	if err := s.Run(t.Context()); err != nil || ran != 100 {
		t.Fatalf("Run = %v after %d of 100 steps", err, ran)
	}
}
