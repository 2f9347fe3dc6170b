// Package undo takes back half-done work.
//
// Whoever makes a thing pushes its undo in the next line; when the work as a
// whole fails, Run takes back what was made, the last thing first. A step that
// hangs, fails or panics never keeps the ones below it from running, and the
// caller's cancellation, which is often why things are taken back, does not
// reach them: each step has a deadline of its own.
package undo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// StepTimeout is how long one step may take before its context ends.
const StepTimeout = 15 * time.Second

// Stack holds what is to be taken back. Its zero value is empty and ready.
// All methods may be called at the same time.
type Stack struct {
	mu    sync.Mutex
	steps []step
}

type step struct {
	name string
	do   func(context.Context) error
}

// Push adds the undo of what was just made. The name leads the error of a
// step that fails.
func (s *Stack) Push(name string, do func(context.Context) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.steps = append(s.steps, step{name, do})
}

// Run takes everything back, the last thing first, and empties the stack; a
// second Run has nothing to do. It keeps ctx's values but neither its
// cancellation nor its deadline. Every step runs, whatever the ones before it
// returned; their errors are joined.
func (s *Stack) Run(ctx context.Context) error {
	s.mu.Lock()
	steps := s.steps
	s.steps = nil
	s.mu.Unlock()

	var errs []error
	for _, st := range slices.Backward(steps) {
		if err := st.run(context.WithoutCancel(ctx)); err != nil {
			errs = append(errs, fmt.Errorf("undo %s: %w", st.name, err))
		}
	}
	return errors.Join(errs...)
}

// Keep empties the stack without running it: the work is done and stays.
func (s *Stack) Keep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.steps = nil
}

// Drop removes the newest step of that name without running it, for a thing
// that has been handed to another owner. It reports whether there was one.
func (s *Stack) Drop(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, st := range slices.Backward(s.steps) {
		if st.name == name {
			s.steps = slices.Delete(s.steps, i, i+1)
			return true
		}
	}
	return false
}

// run turns a panic into an error: a broken step must not leave behind what
// the steps below it would have removed.
func (st step) run(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, StepTimeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return st.do(ctx)
}
