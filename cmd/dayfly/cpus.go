package main

import (
	"fmt"
	"math"
	"strconv"

	"github.com/dayfly/dayfly"
)

// processors is a flag: so many virtual CPUs, or a part of them. A fraction is
// that of the next whole number of CPUs, all together.
type processors struct {
	cpus  int
	limit float64 // 0: as much as the CPUs give
}

// Set takes a number such as 2 or 0.25.
func (p *processors) Set(s string) error {
	n, err := strconv.ParseFloat(s, 64)
	if err != nil || !(n >= dayfly.MinCPULimit && n <= dayfly.MaxCPUs) {
		return fmt.Errorf("%q: use a number from %g to %d, such as 2, or 0.25 for a quarter of one", s, dayfly.MinCPULimit, dayfly.MaxCPUs)
	}
	whole := math.Ceil(n)
	p.cpus, p.limit = int(whole), 0
	if n != whole {
		p.limit = n
	}
	return nil
}

// String is the number.
func (p *processors) String() string {
	if p.limit > 0 {
		return strconv.FormatFloat(p.limit, 'g', -1, 64)
	}
	return strconv.Itoa(p.cpus)
}

// Type is what help calls it.
func (*processors) Type() string { return "number" }
