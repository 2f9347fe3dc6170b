package node

import (
	"context"
	"crypto/rand"
	"strings"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest/wire"
)

// entropyLen is how much fresh randomness a workspace starts with: the state of
// the kernel's generator (drivers/char/random.c: 256 bits) twice over.
const entropyLen = 64

func freshEntropy() []byte {
	b := make([]byte, entropyLen)
	_, _ = rand.Read(b) // never fails: crypto/rand ends the process instead
	return b
}

// init makes the machine this workspace.
func (s *start) init(ctx context.Context) error {
	if s.disks != nil {
		return s.becomeOne(ctx)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, initDeadline, dayfly.Errorf(dayfly.Unavailable, "the guest's agent did not finish its preparations within %s", initDeadline))
	defer cancel()
	spec, cfg := s.ws.Spec, s.ws.Image.Config
	former, strays, err := s.w.formerNames(s.origin)
	if err != nil {
		return err
	}
	at := s.clock.ms()
	reply, err := s.parts.session.Init(ctx, wire.Init{
		ID:             string(s.w.id),
		Hostname:       spec.Name,
		Entropy:        freshEntropy(),
		Timestamp:      now().Format(time.RFC3339Nano),
		EnvVars:        spec.Env,
		DefaultUser:    orElse(spec.User, cfg.User),
		DefaultWorkdir: orElse(spec.Workdir, cfg.Workdir),
		Config:         &cfg,
		Former:         former,
		Strays:         strays,
		Restored:       s.ws.StartKind != dayfly.Cold,
		Root: &wire.Root{
			Image: rootDevice, Disk: diskDevice, DiskKey: append([]byte(nil), s.key[:]...),
			DiskSize: int64(spec.DiskMiB) << 20, // a restored guest sees a larger device
		},
	})
	if err != nil {
		return whyEnded(ctx, s.parts.machine, err)
	}
	s.subStages("init", at, reply.Timeline)
	return nil
}

// becomeOne makes a prepared machine this workspace.
func (s *start) becomeOne(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, initDeadline, dayfly.Errorf(dayfly.Unavailable, "the guest's agent did not finish its preparations within %s", initDeadline))
	defer cancel()
	spec, cfg, at := s.ws.Spec, s.ws.Image.Config, s.clock.ms()
	reply, err := becomeOne(ctx, s.parts.session, wire.Renew{
		Generation:     string(s.w.id),
		ID:             string(s.w.id),
		Hostname:       spec.Name,
		EnvVars:        orNone(spec.Env),
		DefaultUser:    orElse(spec.User, cfg.User),
		DefaultWorkdir: orElse(spec.Workdir, cfg.Workdir),
	}, s.key)
	if err != nil {
		return s.unrenewed(ctx, err)
	}
	s.subStages("init", at, reply.Timeline)
	return nil
}

// orNone makes no variables an empty set of them, which is sent as that.
func orNone(env map[string]string) map[string]string {
	if env == nil {
		return map[string]string{}
	}
	return env
}

// subStages notes what the guest says a stage consisted of.
func (s *start) subStages(stage string, at float64, line dayfly.Timeline) {
	for _, sub := range line[:min(len(line), maxSubStages)] {
		s.ws.Timeline = append(s.ws.Timeline, dayfly.Stage{Name: clip(sub.Name), At: at + sub.At, Took: sub.Took, Within: stage})
	}
}

// maxSubStages bounds what a guest can add to a timeline.
const maxSubStages = 32

// clip keeps the first letters of a name the guest chose.
func clip(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < 0x21 || r > 0x7e {
			return -1
		}
		return r
	}, s)
	return s[:min(len(s), 32)]
}
