package firecracker

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm"
)

func TestMachineDirIsFoundAgain(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{"/state/w1", "/with, comma,,and:colon", "/"} {
		if got, ok := machineDir(processName(vmm.Config{ID: "w1", Dir: dir})); !ok || got != dir {
			t.Errorf("machineDir = %q, %v; want %q", got, ok, dir)
		}
	}
	for _, name := range []string{"", "firecracker", "firecracker:dayfly:w1", "firecracker:dayfly:w1:state", "sh -c firecracker:dayfly:w1:/state"} {
		if got, ok := machineDir(name); ok {
			t.Errorf("machineDir of %q = %q", name, got)
		}
	}
}

// TestSilentAPIIsNamed has a bound of ten seconds pass in no time.
func TestSilentAPIIsNamed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var ends []net.Conn
		a := newAPI(func(context.Context) (net.Conn, error) {
			ours, theirs := net.Pipe()
			ends = append(ends, theirs)
			go func() { _, _ = io.Copy(io.Discard, theirs) }() // hears all, and answers nothing
			return ours, nil
		}, defaultLimits)
		began := time.Now()
		err := a.do(t.Context(), request{http.MethodPut, "/vsock", vsockConfig{3, "v"}, false}, nil)
		if dayfly.KindOf(err) != dayfly.Unavailable || !strings.Contains(err.Error(), "PUT /vsock") {
			t.Errorf("error is %v", err)
		}
		if took := time.Since(began); took != defaultLimits.answer {
			t.Errorf("it took %s, want %s", took, defaultLimits.answer)
		}
		for _, c := range ends {
			_ = c.Close()
		}
		a.close()
	})
}

func TestFaultIsQuotedAndShort(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"fault_message": "\u001b[2J`+strings.Repeat("x", 10_000)+`"}`)
	}))
	defer s.Close()
	a := newAPI(func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", s.Listener.Addr().String())
	}, defaultLimits)
	defer a.close()
	err := a.do(t.Context(), request{http.MethodGet, "/", nil, false}, nil)
	var f *fault
	if !errors.As(err, &f) || f.status != http.StatusBadRequest || strings.ContainsRune(err.Error(), 0x1b) || len(err.Error()) > 2000 {
		t.Errorf("error is %.200q", err)
	}
}

const (
	mib = 1 << 20
	gib = 1 << 30
)

func mapsOf(areas ...area) string {
	return `55d0c0000000-55d0c0100000 r-xp 00000000 08:01 77                         /usr/bin/firecracker
55d0c0200000-55d0c0300000 rw-p 00100000 08:01 77                         /usr/bin/firecracker
55d0c1000000-55d0c9000000 rw-p 00000000 00:00 0                          [heap]
7f0000000000-7f0008000000 rw-s 00000000 00:01 12                         /memfd:shared (deleted)
7f0010000000-7f0018000000 ---p 00000000 00:00 0
` + textOf(areas)
}

func textOf(areas []area) string {
	var b strings.Builder
	for _, a := range areas {
		b.WriteString(formatArea(a))
	}
	return b.String()
}

func TestRAMOfAFileIsFound(t *testing.T) {
	t.Parallel()
	const inode = 4711
	for name, c := range map[string]struct {
		areas []area
		size  int64
		want  []vmm.Mapping
	}{
		"one": {[]area{{0x1000_0000, 0x1800_0000, 0, inode}}, 128 * mib, []vmm.Mapping{{Addr: 0x1000_0000, Len: 128 * mib}}},
		"its beginning given to the host": {
			[]area{{0x1000_0000, 0x1100_0000, 0, 0}, {0x1100_0000, 0x1800_0000, 0x100_0000, inode}}, 128 * mib,
			[]vmm.Mapping{{Addr: 0x1000_0000, Len: 128 * mib}},
		},
		"two apart": {
			[]area{{1 * gib, 2 * gib, 3 * gib, inode}, {5 * gib, 8 * gib, 0, inode}}, 4 * gib,
			[]vmm.Mapping{{Addr: 5 * gib, Len: 3 * gib}, {Addr: 1 * gib, Len: 1 * gib}},
		},
		"two that became one": {
			[]area{{8 * gib, 12 * gib, 0, inode}}, 4 * gib,
			[]vmm.Mapping{{Addr: 8 * gib, Len: 3 * gib}, {Addr: 11 * gib, Len: 1 * gib}},
		},
		"none": {[]area{{0x1000_0000, 0x1800_0000, 0, 1}}, 128 * mib, nil},
	} {
		got, err := ofFile(parseMaps(mapsOf(c.areas...)), inode, regions(c.size))
		if !slices.Equal(got, c.want) || (err == nil) != (c.want != nil) {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, c.want)
		}
	}
}

func TestRAMWithoutAFileIsFound(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		areas  []area
		size   int64
		kernel uint64 // where the guest's kernel says its RAM begins
		want   []vmm.Mapping
	}{
		"one of that size": {[]area{{0x1000, 0x9000, 0, 0}, {1 * gib, 1*gib + 256*mib, 0, 0}}, 256 * mib, 0, []vmm.Mapping{{Addr: 1 * gib, Len: 256 * mib}}},
		"two of that size": {
			[]area{{1 * gib, 1*gib + 256*mib, 0, 0}, {2 * gib, 2*gib + 256*mib, 0, 0}}, 256 * mib, 2 * gib,
			[]vmm.Mapping{{Addr: 2 * gib, Len: 256 * mib}},
		},
		"one of that size, and no kernel": {
			[]area{{1 * gib, 1*gib + 300*mib, 0, 0}, {2 * gib, 2*gib + 256*mib, 0, 0}}, 256 * mib, 0,
			[]vmm.Mapping{{Addr: 2 * gib, Len: 256 * mib}},
		},
		"two, and no kernel":    {[]area{{1 * gib, 1*gib + 256*mib, 0, 0}, {2 * gib, 2*gib + 256*mib, 0, 0}}, 256 * mib, 0, nil},
		"at the end of another": {[]area{{1 * gib, 1*gib + 260*mib, 0, 0}}, 256 * mib, 1*gib + 4*mib, []vmm.Mapping{{Addr: 1*gib + 4*mib, Len: 256 * mib}}},
		"two regions": {
			[]area{{1 * gib, 2 * gib, 0, 0}, {4 * gib, 7 * gib, 0, 0}}, 4 * gib, 0,
			[]vmm.Mapping{{Addr: 4 * gib, Len: 3 * gib}, {Addr: 1 * gib, Len: 1 * gib}},
		},
		"the upper one lies below": {[]area{{4 * gib, 8 * gib, 0, 0}}, 4 * gib, 5 * gib, []vmm.Mapping{{Addr: 5 * gib, Len: 3 * gib}, {Addr: 4 * gib, Len: 1 * gib}}},
		"the upper one lies above": {[]area{{4 * gib, 8 * gib, 0, 0}}, 4 * gib, 4 * gib, []vmm.Mapping{{Addr: 4 * gib, Len: 3 * gib}, {Addr: 7 * gib, Len: 1 * gib}}},
		"two beside something else": {
			[]area{{4 * gib, 8*gib + 132<<10, 0, 0}}, 4 * gib, 5 * gib,
			[]vmm.Mapping{{Addr: 5 * gib, Len: 3 * gib}, {Addr: 4 * gib, Len: 1 * gib}},
		},
		"two among much else": {[]area{{4 * gib, 20 * gib, 0, 0}}, 4 * gib, 5 * gib, nil},
		"none":                {nil, 256 * mib, 0, nil},
	} {
		got, err := anonymous(parseMaps(mapsOf(c.areas...)), regions(c.size), func(at uint64) bool { return at == c.kernel })
		if c.want == nil {
			if err == nil {
				t.Errorf("%s: found %+v", name, got)
			}
			continue
		}
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, c.want)
		}
	}
}

func FuzzMapsHoldNoSurprise(f *testing.F) {
	f.Add(mapsOf(area{0x1000_0000, 0x1800_0000, 0, 0}), int64(128*mib))
	f.Add(mapsOf(area{1 * gib, 2 * gib, 3 * gib, 4711}, area{5 * gib, 8 * gib, 0, 4711}), int64(4*gib))
	f.Add("ffffffffffffffff-0 rw-p ffffffffffffffff 00:00 18446744073709551615", int64(1))
	f.Fuzz(func(t *testing.T, text string, size int64) {
		if size <= 0 || size > 64*gib {
			return
		}
		areas := parseMaps(text)
		for _, find := range []func() ([]vmm.Mapping, error){
			func() ([]vmm.Mapping, error) { return ofFile(areas, 4711, regions(size)) },
			func() ([]vmm.Mapping, error) {
				return anonymous(areas, regions(size), func(uint64) bool { return true })
			},
		} {
			parts, err := find()
			whole := int64(0)
			for _, p := range parts {
				whole += p.Len
			}
			if err == nil && whole != size {
				t.Fatalf("found %+v for a RAM of %d bytes", parts, size)
			}
		}
	})
}

func FuzzAnswerIsNoMoreThanAnError(f *testing.F) {
	f.Add(200, []byte(`{"state": "Running", "vmm_version": "1.16.2"}`))
	f.Add(400, []byte(`{"fault_message": "no"}`))
	f.Add(500, []byte("\x1b[2J"))
	f.Fuzz(func(t *testing.T, status int, text []byte) {
		var is instanceInfo
		err := understand(request{method: http.MethodGet, path: "/"}, status, text, &is)
		if err != nil && (len(err.Error()) > 4000 || strings.ContainsRune(err.Error(), 0x1b)) {
			t.Fatalf("error is %q", err)
		}
		_, _ = parseVersion(is.Version)
	})
}

func FuzzHandshakeTakesNoMoreThanItsLine(f *testing.F) {
	for _, said := range []string{"OK 1073741824\nhello", "OK \n", "NO 1\n", "OK 99999999999999", "", "\n"} {
		f.Add([]byte(said))
	}
	f.Fuzz(func(t *testing.T, said []byte) {
		ours, theirs := net.Pipe()
		defer ours.Close()
		rest := make(chan []byte, 1)
		go func() {
			defer theirs.Close()
			line := make([]byte, len("CONNECT 1024\n"))
			if _, err := io.ReadFull(theirs, line); err != nil {
				rest <- nil
				return
			}
			n, _ := theirs.Write(said) // ends when nobody reads any more
			rest <- said[n:]
		}()
		err := shake(ours, AgentPort)
		_ = ours.Close()
		left := <-rest
		if i := strings.IndexByte(string(said), '\n'); err == nil && (i < 0 || len(left) != len(said)-i-1) {
			t.Fatalf("of %q it left %q", said, left)
		}
		if len(said)-len(left) > maxOK {
			t.Fatalf("it read %d bytes", len(said)-len(left))
		}
	})
}

// TestInterruptedSetDriveIsSeenThrough has its owner die at each of its steps.
func TestInterruptedSetDriveIsSeenThrough(t *testing.T) {
	t.Parallel()
	const was, set, name, next = "/was", "/set", "drive0", "drive0.new"
	for step, c := range []struct {
		knows string            // by which name Firecracker has it
		links map[string]string // what is in the directory
		want  string
	}{
		{name, map[string]string{name: was}, was},
		{name, map[string]string{name: was, next: set}, was},
		{next, map[string]string{name: was, next: set}, set},
		{next, map[string]string{name: set}, set},
		{name, map[string]string{name: set}, set},
	} {
		h, err := openHome(t.Context(), t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		for link, to := range c.links {
			if err := h.link(to, link); err != nil {
				t.Fatal(err)
			}
		}
		got, err := h.behind(vmConfig{Drives: []driveConfig{{ID: name, Path: c.knows}}}, 0)
		if err != nil || got != c.want {
			t.Errorf("after step %d: %q, %v; want %q", step, got, err, c.want)
		}
		if err := h.remove(); err != nil {
			t.Error(err)
		}
	}
}

// elsewhere is a process that sees other files than we do: by their names, which
// of ours they are.
type elsewhere struct {
	vmm.Furnished
	files map[string]string
}

func (e elsewhere) Look(name string) (*os.File, error) { return os.Open(e.files[name]) }

// TestInterruptedSetDriveElsewhereIsSeenThrough is the same where drives are
// mounts: links and mounts may then be at two steps.
func TestInterruptedSetDriveElsewhereIsSeenThrough(t *testing.T) {
	t.Parallel()
	const name, next = "drive0", "drive0.new"
	dir := t.TempDir()
	was, set, none := filepath.Join(dir, "was"), filepath.Join(dir, "set"), filepath.Join(dir, "none")
	for _, path := range []string{was, set, none} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	type files = map[string]string
	for step, c := range []struct {
		knows        string
		links, views files
		want         string
	}{
		{name, files{name: was}, files{name: was, next: none}, was},
		{name, files{name: was, next: set}, files{name: was, next: none}, was},
		{name, files{name: was, next: set}, files{name: was, next: set}, was},
		{next, files{name: was, next: set}, files{name: was, next: set}, set},
		{next, files{name: was, next: set}, files{name: none, next: set}, set},
		{next, files{name: was, next: set}, files{name: set, next: none}, set},
		{next, files{name: set}, files{name: set, next: none}, set},
		{name, files{name: set}, files{name: set, next: none}, set},
		{name, files{name: dir + "/gone"}, files{name: was, next: none}, dir + "/gone"}, // the file has lost its name
		{name, files{name: was}, files{name: set, next: none}, ""},                      // another machine's
	} {
		h, err := openHome(t.Context(), t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		for link, to := range c.links {
			if err := h.link(to, link); err != nil {
				t.Fatal(err)
			}
		}
		views := files{}
		for view, to := range c.views {
			views[inside(view)] = to
		}
		m := &machine{home: h, proc: &process{inside: elsewhere{files: views}}}
		got, err := m.behind(vmConfig{Drives: []driveConfig{{ID: name, Path: c.knows}}}, 0)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("after step %d: %q, %v; want %q", step, got, err, c.want)
		}
		if err := h.remove(); err != nil {
			t.Error(err)
		}
	}
}

func TestKernelIsRecognised(t *testing.T) {
	t.Parallel()
	if _, _, err := kernelBanner(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("kernelBanner = %v", err)
	}
	if kernelIn(os.Getpid(), filepath.Join(t.TempDir(), "none"))(0x1000) {
		t.Error("a kernel that is not there was found")
	}
}

func formatArea(a area) string {
	line := strings.Join([]string{hex(a.start) + "-" + hex(a.end), "rw-p", hex(a.offset), "00:01", strconv.FormatUint(a.inode, 10)}, " ")
	if a.inode != 0 {
		line += "     /memfd:memory (deleted)"
	}
	return line + "\n"
}

func hex(n uint64) string { return strconv.FormatUint(n, 16) }

// TestBucketsAreNoFasterThanTheirRate goes through rates and bursts, of which one
// operation at least must fit.
func TestBucketsAreNoFasterThanTheirRate(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.Int64Range(1, 1<<40).Draw(t, "rate")
		burst := time.Duration(rapid.Int64Range(0, 3600).Draw(t, "seconds")) * time.Second
		b := bucket(rate, burst)
		if b.Size < 1 || b.Refill < 1 || float64(b.Size)/float64(b.Refill) > float64(rate)/1000*(1+1e-9) {
			t.Fatalf("%d a second is %+v", rate, b)
		}
		most := max(1, float64(rate)*max(burst, vmm.LeastBurst).Seconds())
		if float64(b.Size) > most || float64(b.Size) < most/2 {
			t.Fatalf("%d a second with bursts of %s is %+v", rate, burst, b)
		}
	})
	if b := bucket(0, time.Second); b != (tokenBucket{}) {
		t.Errorf("no limit is %+v", b)
	}
	both := driveRates(vmm.Limit{ReadBytes: 10 << 20, WriteBytes: 1 << 20, WriteOps: 100})
	if want := rates(1<<20, 100, 0); both != want {
		t.Errorf("a drive's limits are %+v, want %+v", both, want)
	}
}
