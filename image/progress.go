package image

import (
	"sync"

	"github.com/dayfly/dayfly"
)

// reporter hands progress to a caller, one report at a time and not too often.
// The zero value reports to nobody.
type reporter struct {
	to func(dayfly.Progress)
	mu sync.Mutex
}

const progressGrain = 512 << 10 // bytes between two reports of a step

// step begins a step and returns what moves it on. Total is 0 where unknown.
func (r *reporter) step(name string, total int64) func(n int) {
	if r.to == nil {
		return func(int) {}
	}
	var done, told int64
	tell := func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		told = done
		r.to(dayfly.Progress{Step: name, Done: done, Total: total})
	}
	tell()
	return func(n int) {
		done += int64(n)
		if done-told >= progressGrain || n > 0 && done == total {
			tell()
		}
	}
}
