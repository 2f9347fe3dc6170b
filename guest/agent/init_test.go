package agent

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/guest/wire"
)

func TestInitOpensTheRootOnce(t *testing.T) {
	t.Parallel()
	var got []wire.Init
	fail := true
	r := newRig(t, Config{OnInit: func(_ context.Context, in wire.Init) (wire.InitReply, error) {
		got = append(got, in)
		if fail {
			return wire.InitReply{}, &dayfly.Error{Kind: dayfly.Exhausted, Stage: "disk", Msg: "no room", Err: errors.New("cause")}
		}
		return wire.InitReply{Kernel: "k"}, nil
	}})
	body := `{"root":{"image":"/dev/vda","disk":"/dev/vdb"},"accessToken":"t","envVars":{"A":"b"}}`
	resp, b := r.do("POST", wire.InitPath, strings.NewReader(body))
	var e errorBody
	if err := json.Unmarshal(b, &e); err != nil || resp.StatusCode != 507 || e.Kind != dayfly.Exhausted || e.Stage != "disk" || e.Message != "no room: cause" {
		t.Fatalf("%s %s", resp.Status, b)
	}
	if resp, b := r.do("GET", "/envs", nil); resp.StatusCode != 200 || strings.TrimSpace(string(b)) != "{}" {
		t.Errorf("a failed Init changed something: %s %s", resp.Status, b)
	}
	fail = false
	for range 2 {
		resp, b := r.do("POST", wire.InitPath, strings.NewReader(body))
		var reply wire.InitReply
		if err := json.Unmarshal(b, &reply); err != nil || resp.StatusCode != 200 || reply.Kernel != "k" {
			t.Fatalf("%s %s", resp.Status, b)
		}
	}
	if len(got) != 3 || got[0].Root == nil || got[1].Root == nil || got[2].Root != nil {
		t.Errorf("got %+v", got)
	}
	if _, b := r.do("GET", "/envs", nil, tokenHeader, "t"); strings.TrimSpace(string(b)) != `{"A":"b"}` {
		t.Errorf("envs: %s", b)
	}
}

func TestInitIsBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	for body, status := range map[string]int{
		`{"accessToken":"` + strings.Repeat("x", maxToken+1) + `"}`: 400,
		`{"envVars":{"a=b":"c"}}`:                                   400,
		`{"envVars":{"":"c"}}`:                                      400,
		`{"defaultUser":"a\u0000b"}`:                                400,
		`{`:                                                         400,
		strings.Repeat(" ", maxInitBody+1):                          413,
	} {
		if resp, b := r.do("POST", wire.InitPath, strings.NewReader(body)); resp.StatusCode != status {
			t.Errorf("%.40q: %s %s", body, resp.Status, b)
		}
	}
	if resp, _ := r.do("GET", wire.InitPath, nil); resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("GET: %s", resp.Status)
	}
	if resp, b := r.do("POST", wire.InitPath, nil); resp.StatusCode != 200 || !strings.Contains(string(b), `"kernel"`) {
		t.Errorf("an empty Init: %s %s", resp.Status, b)
	}
}

func TestPoweroffIsTheInitsAlone(t *testing.T) {
	t.Parallel()
	if resp, b := newRig(t, Config{}).do("POST", wire.PoweroffPath, nil); resp.StatusCode != 501 {
		t.Errorf("%s %s", resp.Status, b)
	}
	called := 0
	r := newRig(t, Config{OnPoweroff: func(context.Context) error { called++; return nil }})
	if resp, b := r.do("POST", wire.PoweroffPath, nil); resp.StatusCode != 204 || len(b) != 0 || called != 1 {
		t.Errorf("%s %s, called %d times", resp.Status, b, called)
	}
}

func TestMetricsHaveE2BsNames(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{Version: "1.2.3"})
	_, b := r.do("GET", "/metrics", nil)
	var m map[string]float64
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{"ts", "cpu_count", "mem_total", "mem_used", "disk_total", "disk_used"} {
		if m[k] <= 0 {
			t.Errorf("%s is %v", k, m[k])
		}
	}
	if used := m["cpu_used_pct"]; used < 0 || used > 100 || m["mem_used"]+m["mem_cache"] > m["mem_total"] {
		t.Errorf("got %s", b)
	}
	if resp, _ := r.do("GET", "/health", nil); resp.Header.Get("X-Agent-Version") != "1.2.3" {
		t.Errorf("got %v", resp.Header)
	}
}

func TestCPUMeterMeasuresBetweenReadings(t *testing.T) {
	t.Parallel()
	var c cpuMeter
	if n, used := c.read([]byte("cpu  100 0 0 100 0 0 0 0 0 0\ncpu0 1\ncpu1 1\nintr 5\n")); n != 2 || used != 50 {
		t.Errorf("got %d, %v", n, used)
	}
	if _, used := c.read([]byte("cpu  125 0 0 175 0 0 0 0 0 0\n")); used != 25 {
		t.Errorf("got %v", used)
	}
	for _, bad := range []string{"", "cpu", "cpu  x y\n", "cpu 1"} {
		c.read([]byte(bad))
	}
}
