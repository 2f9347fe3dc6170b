package guest

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dayfly/dayfly/guest/wire"
)

// Unconfirmed means that an agent answered without having done all that it was
// asked: the machine must not go on.
type Unconfirmed struct {
	Missing []string // names of steps that were not confirmed, or otherwise than asked
}

func (u *Unconfirmed) Error() string {
	return "the guest's agent did not confirm: " + strings.Join(u.Missing, ", ")
}

// maxClockError is how far the guest's clock may be from what it can have been set to.
const maxClockError = time.Second

// Freeze stops every process of the workspace until Thaw, and returns how many
// there are. Repeated, it changes nothing. An error leaves none stopped.
func (s *Session) Freeze(ctx context.Context) (processes int, err error) {
	var reply wire.FreezeReply
	if err := s.call(ctx, wire.FreezePath, nil, &reply); err != nil {
		return 0, fmt.Errorf("guest: freeze: %w", err)
	}
	return reply.Processes, nil
}

// Thaw lets the workspace's processes go on with the host's time.
func (s *Session) Thaw(ctx context.Context) error {
	defer s.beginBehind()
	in := wire.Thaw{Timestamp: time.Now().UTC().Format(time.RFC3339Nano)}
	if err := s.call(ctx, wire.ThawPath, in, nil); err != nil {
		return fmt.Errorf("guest: thaw: %w", err)
	}
	if err := s.keepTime(ctx, arrival(in.Timestamp, nil), thawDelay); err != nil {
		return fmt.Errorf("guest: thaw: clock: %w", err)
	}
	return nil
}

// Renew makes a restored copy one of its own. Its processes stay frozen: Thaw
// them, or after an error throw the machine away. The error is an *Unconfirmed
// where the agent did less than it was asked. The entropy in in is cleared.
func (s *Session) Renew(ctx context.Context, in wire.Renew) (wire.RenewReply, error) {
	defer clear(in.Entropy)
	defer clear(in.DiskKey)
	var reply wire.RenewReply
	if err := s.call(ctx, wire.RenewPath, in, &reply); err != nil {
		return reply, fmt.Errorf("guest: renew: %w", err)
	}
	want := wants{wire.StepDiskKey: is(diskKey(in.DiskKey)), wire.StepEntropy: isBytes(in.Entropy), wire.StepClock: isSince(in.Timestamp), wire.StepGeneration: is(in.Generation)}
	if in.Identity == wire.IdentityNew {
		want[wire.StepHostname] = is(wire.HostName(in.Hostname, in.ID))
	}
	if err := want.check(reply.Confirmed, wire.RequiredConfirmations()); err != nil {
		return reply, fmt.Errorf("guest: renew: %w", err)
	}
	if len(in.DiskKey) > 0 { // else its clock is set again by Thaw
		if err := s.keepTime(ctx, arrival(in.Timestamp, reply.Timeline), startDelay); err != nil {
			return reply, fmt.Errorf("guest: renew: clock: %w", err)
		}
	}
	return reply, nil
}

// diskKey is what the agent confirms of a disk's key.
func diskKey(key []byte) string {
	if len(key) > 0 {
		return "set"
	}
	return "kept"
}

// Rest writes the disk out and lets it stand still, for a copy of the machine to
// go on with another key. No process of a user's may have run.
func (s *Session) Rest(ctx context.Context) error {
	if err := s.call(ctx, wire.RestPath, nil, nil); err != nil {
		return fmt.Errorf("guest: rest: %w", err)
	}
	return nil
}

// Rehearse lets the agent go through a start on throw-away parts, which it
// leaves as they were. The key in in is cleared.
func (s *Session) Rehearse(ctx context.Context, in wire.Rehearse) (wire.RehearseReply, error) {
	var reply wire.RehearseReply
	err := s.call(ctx, wire.RehearsePath, in, &reply)
	if in.Init.Root != nil {
		clear(in.Init.Root.DiskKey)
	}
	if err != nil {
		return reply, fmt.Errorf("guest: rehearse: %w", err)
	}
	return reply, nil
}

// call posts in, unless nil, and reads the answer into out, unless nil.
func (s *Session) call(ctx context.Context, path string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
		defer clear(body) // it may hold secrets
	}
	answer, made, err := s.ahead(ctx, path, body)
	if !made {
		answer, err = s.post(ctx, path, body)
	}
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("reply: %w", err)
	}
	return nil
}

// checkInit holds an Init's reply to what was asked.
func checkInit(in *wire.Init, reply *wire.InitReply) error {
	var required []string
	want := wants{}
	if len(in.Entropy) > 0 {
		required, want[wire.StepEntropy] = append(required, wire.StepEntropy), isBytes(in.Entropy)
	}
	if in.Timestamp != "" {
		required, want[wire.StepClock] = append(required, wire.StepClock), isSince(in.Timestamp)
	}
	if in.Root != nil {
		required, want[wire.StepHostname] = append(required, wire.StepHostname, wire.StepMachineID), is(wire.HostName(in.Hostname, in.ID))
	}
	return want.check(reply.Confirmed, required)
}

// wants are what values must be, by name. A name that is not in it needs any
// value.
type wants map[string]func(value string) bool

// check is nil or an *Unconfirmed.
func (w wants) check(got []wire.Confirmation, required []string) error {
	var missing []string
	for _, name := range required {
		i := slices.IndexFunc(got, func(c wire.Confirmation) bool { return c.Name == name })
		if i < 0 || got[i].Value == "" || w[name] != nil && !w[name](got[i].Value) {
			missing = append(missing, name)
		}
	}
	if missing != nil {
		return &Unconfirmed{missing}
	}
	return nil
}

func is(want string) func(string) bool {
	return func(value string) bool { return value == want }
}

func isBytes(sent []byte) func(string) bool { return is(strconv.Itoa(len(sent)) + " bytes") }

// isSince is for a clock that was set to when the message was sent, or to that and
// how long it has taken since.
func isSince(sent string) func(string) bool {
	return func(value string) bool {
		want, err := time.Parse(time.RFC3339Nano, sent)
		if err != nil {
			return false
		}
		got, err := time.Parse(time.RFC3339Nano, value)
		took := max(0, time.Since(want))
		return err == nil && got.Sub(want) >= -maxClockError && got.Sub(want) <= took+maxClockError
	}
}
