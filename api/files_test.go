package api_test

import (
	"crypto/rand"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dayfly/dayfly/api"
	"github.com/dayfly/dayfly/test/fakehost"
)

func fileAt(at, path, more string) string {
	return at + "/files?path=" + url.QueryEscape(path) + more
}

func TestFilesComeBackAsTheyWereWritten(t *testing.T) {
	t.Parallel()
	s, at := shop(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "new", "a b&c.bin")
	content := make([]byte, 3<<20)
	_, _ = rand.Read(content)
	binary := http.Header{"Content-Type": {"multipart/form-data; boundary=x"}} // whatever it says
	put := ask{key: fakehost.AdminKey, method: "PUT", path: fileAt(at, path, ""), body: string(content), header: binary}
	if resp, body := s.do(put); resp.StatusCode != 204 || body != "" {
		t.Fatalf("%s %s", resp.Status, body)
	}
	get := ask{key: fakehost.AdminKey, method: "GET", path: fileAt(at, path, ""), header: http.Header{"Accept-Encoding": {"identity"}}}
	resp, body := s.do(get)
	if resp.StatusCode != 200 || body != string(content) {
		t.Errorf("%s, %d bytes", resp.Status, len(body))
	}
	if resp.Header.Get("Content-Security-Policy") != "sandbox" || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("a page of a guest could act as ours: %v", resp.Header)
	}
	get.header = http.Header{"Accept-Encoding": {"identity"}, "Range": {"bytes=1-3"}}
	if resp, body := s.do(get); resp.StatusCode != 206 || body != string(content[1:4]) {
		t.Errorf("%s %q", resp.Status, body)
	}
	get.header = http.Header{"Accept-Encoding": {"identity"}, "Range": {"bytes=99999999-"}}
	if resp, _ := s.do(get); resp.StatusCode != 416 {
		t.Error(resp.Status)
	}
	get.header = http.Header{"Accept-Encoding": {"identity"}, "If-None-Match": {resp.Header.Get("ETag")}}
	if resp, _ := s.do(get); resp.StatusCode != 304 {
		t.Error(resp.Status)
	}
	get.header, get.method = http.Header{"Accept-Encoding": {"identity"}}, "HEAD"
	if resp, body := s.do(get); resp.StatusCode != 200 || body != "" || resp.ContentLength != int64(len(content)) {
		t.Errorf("%s, %d bytes", resp.Status, resp.ContentLength)
	}
}

func TestDirectoriesAreMadeListedAndRemoved(t *testing.T) {
	t.Parallel()
	s, at := shop(t)
	dir := filepath.Join(t.TempDir(), "a", "b")
	made := must[api.FileInfo](s, ask{key: fakehost.AdminKey, method: "POST", path: fileAt(at, dir, "&mkdir=true&user=nobody")})
	if made.Type != "directory" || made.Owner != "nobody" || made.Path != dir {
		t.Errorf("%+v", made)
	}
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("four"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("f", filepath.Join(dir, "l")); err != nil {
		t.Fatal(err)
	}
	list := must[api.FileList](s, ask{key: fakehost.AdminKey, method: "GET", path: fileAt(at, filepath.Dir(dir), "&list=true&depth=2")})
	if len(list.Entries) != 3 || list.Entries[0].Name != "b" || list.Entries[1].Size != 4 || list.Entries[1].Mode != 0o640 || !list.Entries[2].IsSymlink {
		t.Errorf("%+v", list)
	}
	if f := must[api.FileInfo](s, ask{key: fakehost.AdminKey, method: "GET", path: fileAt(at, dir+"/f", "&stat=true")}); f.Type != "file" || f.Size != 4 || f.ModifiedAt.IsZero() {
		t.Errorf("%+v", f)
	}
	for range 2 { // again: it is gone all the same
		must[struct{}](s, ask{key: fakehost.AdminKey, method: "DELETE", path: fileAt(at, dir, "")})
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Error(err)
	}
}

func TestFileErrorsAreProblems(t *testing.T) {
	t.Parallel()
	s, at := shop(t)
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"GET", fileAt(at, "/no/such/file", ""), 404}, {"GET", fileAt(at, "/no/such", "&stat=true"), 404},
		{"GET", fileAt(at, "/no/such", "&list=true"), 404}, {"GET", fileAt(at, "/etc", ""), 400}, {"GET", fileAt(at, "/dev/zero", ""), 400},
		{"GET", fileAt(at, "/etc/passwd", "&list=true&stat=true"), 400}, {"GET", fileAt(at, "/etc", "&list=true&depth=0"), 400},
		{"GET", fileAt(at, "/etc", "&list=true&depth=11"), 400}, {"GET", fileAt(at, "/etc/passwd", "&user=nobody-here"), 0},
		{"GET", at + "/files", 400}, {"GET", fileAt(at, "", ""), 400}, {"GET", fileAt(at, "/x\x00y", ""), 400},
		{"GET", fileAt(at, strings.Repeat("x", 5000), ""), 400}, {"PUT", fileAt(at, "/etc", ""), 400}, {"PUT", fileAt(at, "/proc/none", ""), 0},
		{"POST", fileAt(at, "/tmp/x", ""), 400}, {"POST", fileAt(at, "/tmp/x", "&mkdir=false"), 400}, {"POST", fileAt(at, "/etc/passwd/x", "&mkdir=true"), 0},
		{"DELETE", at + "/files", 400},
	} {
		resp, body := s.do(ask{key: fakehost.AdminKey, method: c.method, path: c.path, body: map[bool]string{true: "x"}[c.method == "PUT"]})
		if c.status != 0 && resp.StatusCode != c.status || resp.StatusCode < 400 || resp.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s %.80s: %s %s", c.method, c.path, resp.Status, body)
		}
	}
}

func TestCallerWhoLeavesAnUploadLeavesNoFile(t *testing.T) {
	t.Parallel()
	s, at := shop(t)
	path := filepath.Join(t.TempDir(), "half")
	r, w := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), "PUT", s.url+fileAt(at, path, ""), r)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-API-Key", fakehost.AdminKey)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if resp, err := http.DefaultClient.Do(req); err == nil {
			_ = resp.Body.Close()
		}
	}()
	_, _ = w.Write([]byte("half of it"))
	_ = w.CloseWithError(io.ErrUnexpectedEOF)
	<-done
	// The guest hears of it in its own time; a whole upload comes after that.
	must[struct{}](s, ask{key: fakehost.AdminKey, method: "DELETE", path: fileAt(at, path, "")})
}

func TestRevokedKeyEndsUploadsAndGuestStreams(t *testing.T) {
	t.Parallel()
	s, at := shop(t)
	made := must[api.NewKey](s, ask{key: fakehost.AdminKey, method: "POST", path: "/v1/keys", body: `{}`})
	body, w := io.Pipe()
	defer w.Close()
	path := filepath.Join(t.TempDir(), "half")
	ended := make(chan error, 2)
	send := func(method, path string, body io.Reader, header http.Header) {
		req, err := http.NewRequestWithContext(t.Context(), method, s.url+path, body)
		if err == nil {
			req.Header = header
			req.Header.Set("X-Api-Key", made.Secret)
			var resp *http.Response
			if resp, err = http.DefaultClient.Do(req); err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			}
		}
		ended <- err
	}
	go send("PUT", fileAt(at, path, ""), body, http.Header{})
	_, _ = w.Write([]byte("half of it"))
	watch := "\x00\x00\x00\x00\x0f" + `{"path":"/tmp"}`
	go send("POST", at+"/guest/filesystem.Filesystem/WatchDir", strings.NewReader(watch), http.Header{"Content-Type": {"application/connect+json"}})
	must[struct{}](s, ask{key: fakehost.AdminKey, method: "DELETE", path: "/v1/keys/" + made.Key.ID})
	for range 2 {
		<-ended // which would not come
	}
}
