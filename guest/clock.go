package guest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest/wire"
)

// A guest has no clock chip: its clock is what it was told, and behind by as long
// as that took to arrive, which on a busy host is half a second.
const (
	startDelay = 150 * time.Millisecond // that much may be, as an emulated machine takes it to read its first message
	thawDelay  = 50 * time.Millisecond
	clockError = 25 * time.Millisecond // how far it may be from the host's once it is set right
	clockTime  = 2 * time.Second       // after which it is set as well as can be
)

// lag is how far a guest's clock is behind the host's: at least and at most.
type lag struct{ least, most time.Duration }

func (l lag) middle() time.Duration { return l.least + l.width()/2 }

func (l lag) width() time.Duration { return l.most - l.least }

// and is what is known by two measurements. Two that cannot both be right are of
// different times: one of the clocks was set in between.
func (l lag) and(later lag) lag {
	both := lag{max(l.least, later.least), min(l.most, later.most)}
	if both.width() < 0 {
		return later
	}
	return both
}

// keepTime sets right the clock of a guest, of which l is known, unless it is
// behind by no more than it may be. It asks what the clock is until that is known
// well enough, and then moves it by the difference, for which it does not matter
// how long that takes to arrive.
func (s *Session) keepTime(ctx context.Context, l lag, may time.Duration) error {
	if l.most <= may {
		return nil
	}
	for began := time.Now(); l.width() > 2*clockError && time.Since(began) < clockTime; {
		seen, err := s.askClock(ctx)
		if isUnknown(err) {
			return nil // an agent of before: its clock is right enough, or stays behind
		}
		if err != nil {
			return err
		}
		l = l.and(seen)
	}
	if off := l.middle(); off.Abs() > clockError {
		return s.call(ctx, wire.ClockPath, wire.Clock{Forward: off.Nanoseconds()}, nil)
	}
	return nil
}

// askClock measures how far the guest's clock is behind.
func (s *Session) askClock(ctx context.Context) (lag, error) {
	var reply wire.ClockReply
	asked := time.Now()
	if err := s.call(ctx, wire.ClockPath, wire.Clock{}, &reply); err != nil {
		return lag{}, err
	}
	took := time.Since(asked)
	said, err := time.Parse(time.RFC3339Nano, reply.Timestamp)
	if err != nil {
		return lag{}, fmt.Errorf("guest: clock: %w", err)
	}
	behind := asked.Sub(said)
	return lag{behind, behind + took}, nil
}

// isUnknown reports whether an agent has no such route.
func isUnknown(err error) bool {
	var no *Refusal
	return errors.As(err, &no) && no.Status/100 == 4
}

// arrival is how far behind a clock is that was set on the way through a call of
// which the guest says what it did: as long as the message took, which is part of
// what the guest cannot account for.
func arrival(timestamp string, line dayfly.Timeline) lag {
	sent, err := time.Parse(time.RFC3339Nano, timestamp)
	if err != nil {
		return lag{}
	}
	busy := time.Duration(line.Total() * float64(time.Millisecond))
	return lag{0, max(0, time.Since(sent)-busy)}
}
