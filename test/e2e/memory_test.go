package e2e

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// holder keeps a text in memory alone, and tells its length when asked. The text
// is put together in the guest, so that no argument, record or log holds it.
const holder = `
import os, time
text = ["-".join(["dayfly", "memory", os.environ["TAIL"][::-1]]) + " %d" % i for i in range(20000)]
while True:
    if os.path.exists("/dev/shm/ask"):
        os.rename("/dev/shm/ask", "/dev/shm/asked")
        open("/dev/shm/answer", "w").write(str(sum(len(t) for t in text)))
    time.sleep(0.1)
`

// What holds the markers: memory, and the environment of a process.
const (
	memoryMarker = "dayfly-memory-93b5c1d0"
	environment  = "dayfly-environment-93b5c1d0"
)

// TestMemoryIsReadableNowhereOnTheHostsDisk: what is only in a workspace's
// memory is in no file while it runs, is paused, and is kept as a snapshot, and
// neither are its keys.
func TestMemoryIsReadableNowhereOnTheHostsDisk(t *testing.T) {
	t.Parallel()
	state := newState(t)
	s := serve(t, state, "--standby", "1")
	id := s.create(t)
	s.sh(t, id, `TAIL=0d1c5b39 python3 -c "$1" </dev/null >/dev/null 2>&1 &
HELD=$(printf 'dayfly-%s-%s' environment 93b5c1d0) sleep 1000000 </dev/null >/dev/null 2>&1 &`, holder)
	ask := func() string {
		return s.sh(t, id, `touch /dev/shm/ask; until [ -s /dev/shm/answer ]; do sleep 0.1; done; cat /dev/shm/answer; rm /dev/shm/answer
grep -c "HELD=dayfly-environment" /proc/$(pgrep -x sleep | head -1)/environ`)
	}
	answer := ask()
	nowhere(t, state, "while it runs")
	s.must(t, "pause", string(id))
	nowhere(t, state, "paused", filepath.Join("pauses", "1", "ram"), filepath.Join("pauses", "1", "state"))
	s.must(t, "resume", string(id))
	s.must(t, "snapshot", "create", string(id), "--name", "held")
	s.must(t, "fork", string(id))
	nowhere(t, state, "with a snapshot and a fork", filepath.Join("generation", "ram"))
	if again := ask(); again != answer || !strings.Contains(answer, "1") {
		t.Errorf("it answered %q, and now %q", answer, again)
	}
}

// nowhere reads every file below a state directory but images and kernels, among
// which there must be some with these ends.
func nowhere(t *testing.T, state, when string, among ...string) {
	t.Helper()
	var read []string
	err := filepath.WalkDir(state, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && filepath.Dir(path) == state && (d.Name() == "images" || d.Name() == "kernels"):
			return filepath.SkipDir
		case !d.Type().IsRegular():
			return nil
		}
		read = append(read, path)
		return scan(path, func(text string) { t.Errorf("%s: %s holds %q in the clear", when, path, text) })
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, end := range among {
		found := false
		for _, path := range read {
			found = found || strings.HasSuffix(path, end)
		}
		if !found {
			t.Errorf("%s: there is no %s among %q", when, end, read)
		}
	}
}

// scan reads the parts of a sparse file that are there and tells of every marker
// in them.
func scan(path string, tell func(text string)) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	const window, overlap = 1 << 20, 64
	buf := make([]byte, window)
	for off := int64(0); ; {
		start, err := f.Seek(off, 3) // SEEK_DATA (lseek(2)); an error: there is none any more
		if err != nil {
			return nil //nolint:nilerr // see above
		}
		n, err := f.ReadAt(buf, start)
		for _, text := range []string{memoryMarker, environment} {
			if bytes.Contains(buf[:n], []byte(text)) {
				tell(text)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		off = start + window - overlap
	}
}
