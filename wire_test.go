package dayfly_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/dayfly/dayfly"
)

var update = flag.Bool("update", false, "write the golden files anew: a change of them is a change of the API")

var (
	spec = dayfly.Spec{
		Image: "base", Name: "mayfly", CPUs: 2, MemoryMiB: 1024, DiskMiB: 2048, Env: map[string]string{"K": "V"},
		User: "user", Workdir: "/home/user", Accel: dayfly.TCG, Cold: true, Keep: true, Timeout: 30,
	}
	image = dayfly.Image{
		Name: "base", Digest: "sha256:0123", Platform: "linux/amd64", Size: 1 << 30,
		CreatedAt: time.Date(2026, 11, 23, 20, 0, 0, 0, time.UTC),
		Config: dayfly.ImageConfig{
			Env: []string{"PATH=/bin"}, Entrypoint: []string{"/init"}, Cmd: []string{"sh"}, User: "user", Workdir: "/",
			ExposedPorts: []string{"80/tcp"}, StopSignal: "SIGTERM",
		},
	}
	timeline = dayfly.Timeline{{Name: "init", At: 1.5, Took: 20}, {Name: "crypt", At: 2, Took: 3.25, Within: "init"}}
)

// golden is the wire form of every word: whole, and with nothing but what is
// always there.
var golden = map[string]any{
	"spec":      spec,
	"spec_min":  dayfly.Spec{Image: "base"},
	"image":     image,
	"image_min": dayfly.Image{Name: "base", Digest: "sha256:0123", Platform: "linux/amd64", CreatedAt: time.Unix(0, 0).UTC()},
	"workspace": dayfly.Workspace{
		ID: "wabcdefghijklmnopqrst", Name: "mayfly", State: dayfly.Running, Reason: "r", Spec: spec, Image: image, Kernel: "k",
		StartKind: dayfly.Cold, Accel: dayfly.TCG, CreatedAt: time.Date(2026, 11, 23, 21, 0, 0, 5e6, time.UTC), Timeline: timeline,
	},
	"workspace_min": dayfly.Workspace{
		ID: "wabcdefghijklmnopqrst", State: dayfly.Creating, Spec: dayfly.Spec{Image: "base"}, CreatedAt: time.Unix(0, 0).UTC(),
		Image: dayfly.Image{CreatedAt: time.Unix(0, 0).UTC()},
	},
	"kernel":   dayfly.Kernel{ID: "6.12-0123", Release: "6.12", Flavour: "tuned", Preferred: true, Size: 20 << 20},
	"check":    dayfly.Check{Name: "kvm", Status: dayfly.Lacking, Detail: "none", Remedy: "buy"},
	"progress": dayfly.Progress{Step: "layer", Done: 1, Total: 2},
	"error":    dayfly.Error{Kind: dayfly.Exhausted, Msg: "disk: full", Stage: "disk", Err: os.ErrClosed},
}

func TestWireFormsArePinned(t *testing.T) {
	t.Parallel()
	for name, v := range golden {
		got, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, '\n')
		path := filepath.Join("testdata", "wire", name+".json")
		if *update {
			if err := os.WriteFile(path, got, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s (-golden +now):\n%s", name, cmp.Diff(string(want), string(got)))
		}
		back := reflect.New(reflect.TypeOf(v))
		if err := json.Unmarshal(want, back.Interface()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		ignore := cmpopts.IgnoreFields(dayfly.Error{}, "Err", "said")
		if diff := cmp.Diff(v, back.Elem().Interface(), ignore); diff != "" {
			t.Errorf("%s does not come back whole:\n%s", name, diff)
		}
	}
}
