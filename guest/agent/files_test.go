package agent

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/guest/wire"
	"github.com/dayfly/dayfly/test/needs"
)

func filesAt(path string) string { return "/files?path=" + url.QueryEscape(path) }

func TestDownloadHonoursRangesAndConditions(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	path := writeFile(t, t.TempDir()+"/a \"b\".txt", "0123456789", 0o644)
	resp, b := r.do("GET", filesAt(path), nil)
	if resp.StatusCode != 200 || string(b) != "0123456789" || resp.ContentLength != 10 {
		t.Fatalf("got %s, %q", resp.Status, b)
	}
	if resp.Header.Get("Content-Disposition") != `inline; filename="a \"b\".txt"` {
		t.Errorf("disposition %q", resp.Header.Get("Content-Disposition"))
	}
	etag := resp.Header.Get("ETag")
	if resp, b := r.do("GET", filesAt(path), nil, "Range", "bytes=2-4"); resp.StatusCode != 206 || string(b) != "234" {
		t.Errorf("range: %s, %q", resp.Status, b)
	}
	if resp, _ := r.do("GET", filesAt(path), nil, "Range", "bytes=20-"); resp.StatusCode != 416 {
		t.Errorf("range beyond the end: %s", resp.Status)
	}
	if resp, _ := r.do("GET", filesAt(path), nil, "If-None-Match", etag); resp.StatusCode != 304 {
		t.Errorf("unchanged: %s", resp.Status)
	}
	if resp, b := r.do("HEAD", filesAt(path), nil); resp.StatusCode != 200 || resp.ContentLength != 10 || len(b) != 0 {
		t.Errorf("head: %s, %d", resp.Status, resp.ContentLength)
	}
	writeFile(t, path, "other text", 0o644)
	if resp, _ := r.do("GET", filesAt(path), nil, "If-None-Match", etag); resp.StatusCode != 200 {
		t.Errorf("changed: %s", resp.Status)
	}
}

func TestDownloadRefusesWhatIsNoFile(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	dir := t.TempDir()
	if err := syscall.Mkfifo(dir+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path   string
		status int
		text   string
	}{
		{dir, 400, "is a directory"},
		{dir + "/none", 404, "does not exist"},
		{dir + "/fifo", 400, "not a regular file"},
		{"/dev/zero", 400, "not a regular file"},
		{"/etc/passwd/x", 400, "not a directory"},
		{"a\x00b", 400, "NUL"},
		{strings.Repeat("x", 5000), 400, "bytes"},
		{"~root/x", 400, "home"},
	} {
		resp, b := r.do("GET", filesAt(c.path), nil)
		r.refused(resp, b, c.status, c.text)
	}
	resp, b := r.do("GET", filesAt(dir)+"&username=nobody-here", nil)
	r.refused(resp, b, 401, "nobody-here")
	resp, b = r.do("PUT", filesAt(dir), nil)
	r.refused(resp, b, 405, "PUT")
	resp, b = r.do("GET", "/nope", nil)
	r.refused(resp, b, 404, "/nope")
	if resp, b := r.do("POST", "/process.Process/Nope", strings.NewReader("{}"), "Content-Type", "application/json"); resp.StatusCode != 501 || !bytes.Contains(b, []byte(`"unimplemented"`)) {
		t.Errorf("got %s %s", resp.Status, b)
	}
}

func TestFilesOfTheKernelAreReadToTheirEnd(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	for _, path := range []string{"/proc/self/status", "/sys/devices/system/cpu/online"} {
		want, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		if resp, got := r.do("GET", filesAt(path), nil); resp.StatusCode != 200 || len(got) == 0 || !strings.HasPrefix(string(got), string(want[:3])) {
			t.Errorf("%s: %s, %q", path, resp.Status, got)
		}
	}
	if resp, b := r.do("GET", filesAt(writeFile(t, t.TempDir()+"/empty", "", 0o644)), nil); resp.StatusCode != 200 || len(b) != 0 {
		t.Errorf("empty: %s, %q", resp.Status, b)
	}
}

func TestGzipIsUsedWhereItIsWanted(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ accept, ranged, want string }{
		{"", "", ""},
		{"gzip", "", "gzip"},
		{"gzip, identity;q=0.5", "", "gzip"},
		{"gzip;q=0.5, identity", "", ""},
		{"gzip, deflate, br", "", ""},
		{"gzip, deflate, identity;q=0", "", "gzip"},
		{"gzip;q=1.0, deflate;q=0.5, identity;q=0.1", "", "gzip"},
		{"deflate", "", ""},
		{"*", "", ""},
		{"gzip;q=0", "", ""},
		{"identity;q=0", "", "406"},
		{"*;q=0", "", "406"},
		{"br, *;q=0", "", "406"},
		{"gzip, *;q=0", "", "gzip"},
		{"gzip", "bytes=0-1", ""},
		{"gzip, identity;q=0", "bytes=0-1", "406"},
		{"gzip;q=huge", "", "gzip"},
	} {
		h := http.Header{}
		if c.accept != "" {
			h.Set("Accept-Encoding", c.accept)
		}
		if c.ranged != "" {
			h.Set("Range", c.ranged)
		}
		got, err := chooseCoding(h)
		var refused *httpError
		if errors.As(err, &refused) {
			got = fmt.Sprint(refused.status)
		}
		if got != c.want {
			t.Errorf("%q %q: got %q, want %q", c.accept, c.ranged, got, c.want)
		}
	}
	r := newRig(t, Config{})
	path := writeFile(t, t.TempDir()+"/f", strings.Repeat("x", 100_000), 0o644)
	resp, b := r.do("GET", filesAt(path), nil, "Accept-Encoding", "gzip")
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil || resp.Header.Get("Content-Encoding") != "gzip" {
		t.Fatalf("%v, %v", err, resp.Header)
	}
	if plain, err := io.ReadAll(z); err != nil || len(plain) != 100_000 {
		t.Errorf("%d bytes, %v", len(plain), err)
	}
}

// form makes a multipart body of parts: disposition and content.
func form(t *testing.T, parts ...string) (io.Reader, string) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for i := 0; i+1 < len(parts); i += 2 {
		p, err := w.CreatePart(textproto.MIMEHeader{"Content-Disposition": {parts[i]}})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(p, parts[i+1])
	}
	_ = w.Close()
	return &b, w.FormDataContentType()
}

func TestUploadByFormKeepsDirectoriesOfFileNames(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	dir := t.TempDir()
	body, kind := form(t,
		`form-data; name="file"; filename="`+dir+`/a/b/one.txt"`, "1",
		`form-data; name="note"`, "ignored",
		`form-data; name="file"; filename*=UTF-8''`+url.PathEscape(dir+"/c/två"), "2")
	resp, b := r.do("POST", "/files", body, "Content-Type", kind, "X-Metadata-Kind", "test")
	var got []uploaded
	if err := json.Unmarshal(b, &got); err != nil || resp.StatusCode != 200 || len(got) != 2 {
		t.Fatalf("%s: %s", resp.Status, b)
	}
	if got[0].Path != dir+"/a/b/one.txt" || got[0].Name != "one.txt" || got[0].Type != "file" || got[1].Path != dir+"/c/två" || got[1].Metadata["kind"] != "test" {
		t.Errorf("got %+v", got)
	}
	for path, want := range map[string]string{"/a/b/one.txt": "1", "/c/två": "2"} {
		if b, err := os.ReadFile(dir + path); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", path, b, err)
		}
	}
	twice := `form-data; name="file"; filename="` + dir + `/x"`
	for name, parts := range map[string][]string{
		"more than one file": {twice, "1", twice, "2"},
		"neither":            {`form-data; name="file"`, "1"},
		"no part":            {`form-data; name="other"; filename="x"`, "1"},
		"disposition":        {`attachment`, "1"},
	} {
		body, kind := form(t, parts...)
		resp, b := r.do("POST", "/files", body, "Content-Type", kind)
		r.refused(resp, b, 400, name)
	}
	body, kind = form(t, twice, "1", `form-data; name="file"; filename="z"`, "2")
	resp, b = r.do("POST", filesAt(dir+"/y"), body, "Content-Type", kind)
	r.refused(resp, b, 400, "more than one file")
}

func TestUploadReplacesContentAndNothingElse(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	dir := t.TempDir()
	path := writeFile(t, dir+"/f", "a much longer text", 0o751)
	if err := os.Link(path, dir+"/hard"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("f", dir+"/soft"); err != nil {
		t.Fatal(err)
	}
	resp, b := r.do("POST", filesAt(dir+"/soft"), strings.NewReader("new"), "Content-Type", "application/octet-stream")
	if resp.StatusCode != 200 {
		t.Fatalf("%s: %s", resp.Status, b)
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o751 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	for _, p := range []string{path, dir + "/hard"} {
		if b, _ := os.ReadFile(p); string(b) != "new" {
			t.Errorf("%s: %q", p, b)
		}
	}
	if err := os.Symlink("target", dir+"/dangling"); err != nil {
		t.Fatal(err)
	}
	if resp, b := r.do("POST", filesAt(dir+"/dangling"), strings.NewReader("x"), "Content-Type", "application/octet-stream"); resp.StatusCode != 200 || !exists(dir+"/target") {
		t.Errorf("through a link to nothing: %s %s", resp.Status, b)
	}
}

func TestUploadThatBreaksOffLeavesNoNewFile(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	path := t.TempDir() + "/sub/f"
	pr, pw := io.Pipe()
	go func() {
		_, _ = pw.Write(make([]byte, 1<<20))
		pw.CloseWithError(io.ErrUnexpectedEOF)
	}()
	req, err := http.NewRequest("POST", r.url+filesAt(path), pr)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	if resp, err := r.cli.HTTP.Do(req); err == nil {
		resp.Body.Close()
		t.Errorf("got %s", resp.Status)
	}
	eventually(t, "no partial file", func() bool { return exists(filepath.Dir(path)) && !exists(path) })
	var cut bytes.Buffer
	z := gzip.NewWriter(&cut)
	_, _ = z.Write(make([]byte, 1<<20))
	_ = z.Close()
	resp, b := r.do("POST", filesAt(path), bytes.NewReader(cut.Bytes()[:cut.Len()/2]), "Content-Type", "application/octet-stream", "Content-Encoding", "gzip")
	r.refused(resp, b, 400, "ended early")
	if exists(path) {
		t.Error("a partial file was left")
	}
}

func TestUploadRefusals(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	dir := t.TempDir()
	if err := syscall.Mkfifo(dir+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path   string
		header []string
		status int
		text   string
	}{
		{"/files", []string{"Content-Type", "application/octet-stream"}, 400, "path is missing"},
		{filesAt(dir), nil, 400, "is a directory"},
		{filesAt(dir + "/fifo"), nil, 400, "fifo"},
		{filesAt(writeFile(t, dir+"/f", "", 0o644) + "/below"), nil, 400, "not a directory"},
		{filesAt(dir + "/x"), []string{"Content-Type", "text/plain"}, 415, "text/plain"},
		{filesAt(dir + "/x"), []string{"Content-Encoding", "br"}, 400, "br"},
		{filesAt(dir + "/x"), []string{"Content-Encoding", "gzip"}, 400, "gzip"},
		{filesAt(dir + "/x"), []string{"X-Metadata-" + strings.Repeat("k", 250), "v"}, 400, "metadata"},
		{filesAt(dir + "/x"), []string{"X-Metadata-K", "caf\xc3\xa9"}, 400, "ASCII"},
		{filesAt(dir+"/x") + "&username=nobody-here", nil, 401, "nobody-here"},
	} {
		resp, b := r.do("POST", c.path, strings.NewReader("x"), c.header...)
		r.refused(resp, b, c.status, c.text)
	}
	if exists(dir + "/x") {
		t.Error("a refused upload made a file")
	}
}

// smallDisk mounts a file system of 1 MiB.
func smallDisk(t *testing.T) string {
	t.Helper()
	needs.Mount(t)
	dir := t.TempDir()
	if err := unix.Mount("small", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestFullDiskIsSaidAndLeavesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	dir := smallDisk(t)
	big := make([]byte, 3<<20)
	old := writeFile(t, dir+"/old", "precious", 0o644)
	for _, path := range []string{old, dir + "/new"} {
		resp, b := r.do("POST", filesAt(path), bytes.NewReader(big)) // its length is known
		r.refused(resp, b, 507, "not enough disk space")
	}
	if b, err := os.ReadFile(old); string(b) != "precious" {
		t.Errorf("the old file is %q, %v", b, err)
	}
	resp, b := r.do("POST", filesAt(dir+"/new"), io.MultiReader(bytes.NewReader(big))) // its length is not
	r.refused(resp, b, 507, "not enough disk space")
	if exists(dir + "/new") {
		t.Error("a partial file was left")
	}
	half := writeFile(t, dir+"/half", strings.Repeat("x", 600<<10), 0o644)
	resp, b = r.do("POST", "/files/compose", strings.NewReader(fmt.Sprintf(`{"source_paths":[%q,%q],"destination":%q}`, half, half, dir+"/both")))
	r.refused(resp, b, 507, "not enough disk space")
	if entries, _ := os.ReadDir(dir); len(entries) != 2 {
		t.Errorf("left: %v", entries)
	}
}

func TestComposeJoinsAndDeletes(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	dir := t.TempDir()
	for i, s := range []string{"one", "two", "three"} {
		writeFile(t, fmt.Sprintf("%s/p%d", dir, i), s, 0o644)
	}
	compose := func(dest string, sources ...string) (*http.Response, []byte) {
		body, _ := json.Marshal(map[string]any{"source_paths": sources, "destination": dest})
		return r.do("POST", "/files/compose", bytes.NewReader(body))
	}
	resp, b := compose(dir+"/d/all", dir+"/p0", dir+"/p1", dir+"/p2")
	if resp.StatusCode != 200 || !bytes.Contains(b, []byte(`"name":"all"`)) {
		t.Fatalf("%s %s", resp.Status, b)
	}
	if b, _ := os.ReadFile(dir + "/d/all"); string(b) != "onetwothree" {
		t.Errorf("got %q", b)
	}
	if exists(dir+"/p0") || exists(dir+"/p2") {
		t.Error("sources were left")
	}
	for _, c := range []struct {
		dest    string
		sources []string
		status  int
		text    string
	}{
		{dir + "/x", nil, 400, "source_paths"},
		{"", []string{dir + "/d/all"}, 400, "destination"},
		{dir + "/d/all", []string{dir + "/d/all"}, 400, "source and destination"},
		{dir + "/x", []string{dir + "/none"}, 404, "none"},
		{dir + "/x", []string{dir + "/d"}, 400, "directory"},
		{dir + "/d", []string{dir + "/d/all"}, 400, "regular"},
	} {
		resp, b := compose(c.dest, c.sources...)
		r.refused(resp, b, c.status, c.text)
	}
	if !exists(dir + "/d/all") {
		t.Error("a refused compose deleted its source")
	}
}

func TestTokenAndSignatures(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{})
	path := writeFile(t, t.TempDir()+"/f", "content", 0o644)
	const token = "tok"
	r.init(wire.Init{AccessToken: token})
	soon, past := time.Now().Unix()+60, time.Now().Unix()-60
	query := func(op, user string, expiry *int64) string {
		q := filesAt(path) + "&signature=" + url.QueryEscape(sign(path, op, user, token, expiry))
		if user != "" {
			q += "&username=" + user
		}
		if expiry != nil {
			q += fmt.Sprintf("&signature_expiration=%d", *expiry)
		}
		return q
	}
	for _, c := range []struct {
		method, url string
		header      []string
		status      int
		text        string
	}{
		{"GET", query("read", "", nil), nil, 200, ""},
		{"GET", query("read", "", &soon), nil, 200, ""},
		{"GET", query("read", "root", &soon), nil, 200, ""},
		{"GET", filesAt(path), []string{tokenHeader, token}, 200, ""},
		{"POST", query("write", "", nil), nil, 200, ""},
		{"GET", filesAt(path), nil, 401, textMissingSignature},
		{"GET", filesAt(path), []string{tokenHeader, "other"}, 401, textWrongToken},
		{"GET", query("write", "", nil), nil, 401, textInvalidSignature},
		{"POST", query("read", "", nil), nil, 401, textInvalidSignature},
		{"GET", query("read", "", nil) + "x", nil, 401, textInvalidSignature},
		{"GET", query("read", "", nil) + "&username=root", nil, 401, textInvalidSignature},
		{"GET", query("read", "", &past), nil, 401, textExpired},
		{"GET", filesAt(path) + fmt.Sprintf("&signature=v1_x&signature_expiration=%d", past), nil, 401, textInvalidSignature},
		{"GET", query("read", "", &soon) + "x", nil, 400, "signature_expiration"},
		{"GET", "/envs", nil, 401, "unauthorized"},
		{"GET", "/envs", []string{tokenHeader, token + "x"}, 401, "unauthorized"},
		{"GET", "/envs", []string{tokenHeader, token}, 200, ""},
		{"GET", "/metrics", nil, 401, "unauthorized"},
		{"POST", "/files/compose", nil, 401, "unauthorized"},
		{"POST", wire.ProcessList, nil, 401, "unauthorized"},
		{"POST", "/health", nil, 401, "unauthorized"},
	} {
		resp, b := r.do(c.method, c.url, strings.NewReader("x"), c.header...)
		if c.status != 200 {
			r.refused(resp, b, c.status, c.text)
		} else if resp.StatusCode != 200 {
			t.Errorf("%s %s: %s %s", c.method, c.url, resp.Status, b)
		}
	}
	if resp, _ := r.do("GET", "/health", nil); resp.StatusCode != 204 {
		t.Errorf("health: %s", resp.Status)
	}
	// E2B's own example: the vector its clients are tested with has this form.
	if got := sign("/f", "read", "u", "t", nil); !strings.HasPrefix(got, "v1_") || strings.HasSuffix(got, "=") || len(got) != 3+43 {
		t.Errorf("signature %q", got)
	}
	r.init(wire.Init{})
	if resp, _ := r.do("GET", "/envs", nil); resp.StatusCode != 200 {
		t.Errorf("an Init without a token must clear it: %s", resp.Status)
	}
}
