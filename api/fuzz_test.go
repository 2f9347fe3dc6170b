package api

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/dayfly/dayfly"
)

func FuzzFirstMessage(f *testing.F) {
	f.Add([]byte(`{"command":["ls","-l"],"tty":true,"size":{"cols":80,"rows":24},"env":{"A":"b"}}`))
	f.Add([]byte(`{"shell":"x","timeout_s":99999999999}`))
	f.Add([]byte(`{"shell":"x"}{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := parseExec(b)
		if err != nil {
			if k := dayfly.KindOf(err); k != dayfly.Invalid {
				t.Errorf("%v is %s", err, k)
			}
			return
		}
		req := x.request(true)
		if req.Process.Cmd == "" || x.TimeoutS < 0 || req.PTY != nil && (req.PTY.Size.Cols == 0 || req.PTY.Size.Rows > 0xffff) {
			t.Errorf("%s became %+v", b, req)
		}
	})
}

func FuzzQuery(f *testing.F) {
	f.Add("/v1/workspaces", "state=running&metadata=a%3Db&limit=5&order=name&cursor=x")
	f.Add("/v1/events", "after=3&type=workspace.created&limit=0")
	f.Add("/v1/workspaces/x/files", "path=%2F&stat=1&depth=99")
	f.Add("/v1/audit", "before=-1&token=dfk_a")
	s := New(Options{Workspaces: newFake()})
	f.Fuzz(func(t *testing.T, path, query string) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.URL.Path, r.URL.RawQuery = path, query
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code >= 500 && w.Code != http.StatusServiceUnavailable { // of what this server lacks
			t.Errorf("%s?%s: %d %s", path, query, w.Code, w.Body)
		}
		if q, err := credential(r); err == nil && q != "" && !strings.HasPrefix(q, tokenPrefix) {
			t.Errorf("%q was taken from an address", q)
		}
	})
}

func FuzzLogLines(f *testing.F) {
	f.Add("one\ntwo\r\n\xff")
	f.Add(strings.Repeat("x", maxLogLine+1))
	f.Fuzz(func(t *testing.T, log string) {
		err := eachLine(strings.NewReader(log), func(line string) error {
			if len(line) > 3*maxLogLine || strings.Contains(line, "\n") {
				t.Errorf("a line of %d bytes", len(line))
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func FuzzAddresses(f *testing.F) {
	f.Add("127.0.0.1")
	f.Add("fe80::1%eth0")
	f.Add("local")
	f.Fuzz(func(t *testing.T, addr string) {
		l := newLimiter()
		for range failBurst {
			if l.wait(addr) > 0 {
				t.Fatal("refused before it has failed often")
			}
			l.failed(addr)
		}
		if l.wait(addr) <= 0 {
			t.Error("it may go on for ever")
		}
	})
}

func TestFailuresAreRememberedInBoundedSpace(t *testing.T) {
	t.Parallel()
	l := newLimiter()
	for i := range 3 * maxFailed {
		l.failed("10." + strings.Join([]string{strconv.Itoa(i >> 16), strconv.Itoa(i >> 8 & 255), strconv.Itoa(i & 255)}, "."))
	}
	if len(l.of) > maxFailed+1 {
		t.Errorf("%d entries", len(l.of))
	}
	if l.wait("192.0.2.1") == 0 {
		t.Error("an address for which there is no room is not counted with the others")
	}
	if l.wait("10.0.0.1") > 0 {
		t.Error("one failure is enough")
	}
}
