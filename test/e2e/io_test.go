package e2e

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	words "github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/test/needs"
)

// TestDiskIsNoFasterThanItsLimit writes in a workspace and in a copy of it, with
// a jail around the VMM and without. It takes half the time that the limit asks for as
// proof, and the time of the VMM's own start is not in it.
func TestDiskIsNoFasterThanItsLimit(t *testing.T) {
	t.Parallel()
	for name, flags := range map[string][]string{"jailed": {"--jail", "on"}, "bare": {"--jail", "off"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if name == "jailed" {
				needs.Jail(t)
			}
			config := filepath.Join(t.TempDir(), "config.yaml")
			if err := os.WriteFile(config, []byte("io: {write: 4194304}\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			s := serve(t, newState(t), append(flags, "--config", config)...)
			id := s.create(t)
			copied := words.ID(s.must(t, "fork", string(id))[0])
			for what, id := range map[string]words.ID{"workspace": id, "copy": copied} {
				const least = 4 * time.Second // 16 MiB at 4 MiB a second
				began := time.Now()
				s.sh(t, id, "dd if=/dev/zero of=/var/tmp/file bs=1M count=16 conv=fsync 2>/dev/null")
				if took := time.Since(began); took < least/2 {
					t.Errorf("the %s wrote 16 MiB in %s, and in %s at least by the limit", what, took, least)
				}
			}
		})
	}
}
