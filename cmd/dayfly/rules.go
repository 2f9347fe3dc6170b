package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/dayfly/dayfly"
)

// restartFlag is POLICY or POLICY:MAX.
type restartFlag struct{ dayfly.Restart }

func (f *restartFlag) Type() string { return "POLICY[:MAX]" }

func (f *restartFlag) String() string {
	if f.Max == 0 {
		return string(f.Policy)
	}
	return fmt.Sprintf("%s:%d", f.Policy, f.Max)
}

// Set reads a restart policy.
func (f *restartFlag) Set(s string) error {
	policy, bound, bounded := strings.Cut(s, ":")
	switch p := dayfly.RestartPolicy(policy); p {
	case dayfly.RestartNo, dayfly.RestartOnFailure, dayfly.RestartAlways, dayfly.RestartUnlessStopped:
		f.Policy, f.Max = p, 0
	default:
		return fmt.Errorf("%q is no policy: use no, on-failure, always or unless-stopped", policy)
	}
	if !bounded {
		return nil
	}
	n, err := strconv.Atoi(bound)
	if err != nil || n < 1 || f.Policy == dayfly.RestartNo {
		return fmt.Errorf("%q: after a policy that restarts may come : and how often in a row, such as on-failure:5", s)
	}
	f.Max = n
	return nil
}

// seconds is a flag for a duration that travels in whole seconds; 0 is never.
type seconds int

func (s *seconds) Type() string   { return "DURATION" }
func (s *seconds) String() string { return (time.Duration(*s) * time.Second).String() }

// Set reads a duration, rounded up.
func (s *seconds) Set(text string) error {
	if text == "0" || text == "never" {
		*s = 0
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return fmt.Errorf("%q is no duration: write 30s, 10m or 2h", text)
	}
	*s = seconds(math.Ceil(d.Seconds()))
	return nil
}

// pairs is a flag that is given once for each KEY=VALUE.
type pairs map[string]string

func (p *pairs) Type() string   { return "KEY=VALUE" }
func (p *pairs) String() string { return "" }

// Set takes one pair.
func (p *pairs) Set(s string) error {
	k, v, ok := strings.Cut(s, "=")
	if !ok || k == "" {
		return fmt.Errorf("%q is not KEY=VALUE", s)
	}
	if *p == nil {
		*p = pairs{}
	}
	(*p)[k] = v
	return nil
}

// span is a flag for a life: a duration, or a number of days such as 30d.
type span time.Duration

func (s *span) Type() string { return "DURATION" }

func (s *span) String() string {
	if *s == 0 {
		return ""
	}
	return time.Duration(*s).String()
}

const (
	day     = 24 * time.Hour
	maxDays = 100 * 365
)

// Set reads a positive span.
func (s *span) Set(text string) error {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n > 0 && n <= maxDays {
			*s = span(time.Duration(n) * day)
			return nil
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return fmt.Errorf("%q is no span of time: write 30d, 12h or 15m", text)
	}
	*s = span(d)
	return nil
}
