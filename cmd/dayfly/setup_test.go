package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// releaseArchive is a release with a program that says its version.
func releaseArchive(t *testing.T, version, says string) (archive []byte, digest string) {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	dir := "release-v" + version + "-x86_64/"
	for name, text := range map[string]string{
		dir + "jailer-v" + version + "-x86_64":      "no program of ours",
		dir + "firecracker-v" + version + "-x86_64": "#!/bin/sh\necho 'Firecracker v" + says + "'\n",
	} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(text)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b.Bytes())
	return b.Bytes(), hex.EncodeToString(sum[:])
}

// releases is a server of releases, of which it has one.
func releases(t *testing.T, version string, archive []byte) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/releases/download/v"+version+"/firecracker-v"+version+"-x86_64.tgz" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(archive)
	}))
	t.Cleanup(s.Close)
	return s.URL + "/releases"
}

// setup runs dayfly setup firecracker with releases at base.
func setup(t *testing.T, base string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	a := newApp()
	var out, errs bytes.Buffer
	a.stdout, a.stderr = &out, &errs
	code = a.run(append([]string{"setup", "firecracker", "--from", base}, args...))
	return code, out.String(), errs.String()
}

func entries(t *testing.T, dir string) (names []string) {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		names = append(names, e.Name())
	}
	return names
}

func TestReleaseIsInstalledOnlyIfItIsTheOneExpected(t *testing.T) {
	t.Parallel()
	const version = "1.17.3"
	archive, digest := releaseArchive(t, version, version)
	base := releases(t, version, archive)
	file := filepath.Join(t.TempDir(), "archive.tgz")
	if err := os.WriteFile(file, archive, 0o600); err != nil {
		t.Fatal(err)
	}
	other := strings.Repeat("0", 64)
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"fetched":            {[]string{"--release", version, "--sha256", digest}, 0, "firecracker 1.17.3 is at "},
		"with a v":           {[]string{"--release", "v" + version, "--sha256", strings.ToUpper(digest)}, 0, "firecracker 1.17.3 is at "},
		"from a file":        {[]string{"--release", version, "--sha256", digest, "--archive", file}, 0, "firecracker 1.17.3 is at "},
		"another one":        {[]string{"--release", version, "--sha256", other}, 1, "is not the release: the SHA-256 of the archive is " + digest},
		"another file":       {[]string{"--release", version, "--sha256", other, "--archive", file}, 1, "nothing was installed"},
		"another version":    {[]string{"--release", "1.17.4", "--sha256", digest}, 1, "404 Not Found"},
		"the archive lacks":  {[]string{"--release", "1.17.4", "--sha256", digest, "--archive", file}, 1, "the archive has no release-v1.17.4-x86_64/firecracker-v1.17.4-x86_64"},
		"no file":            {[]string{"--archive", file + ".none"}, 1, "--archive: "},
		"no digest":          {[]string{"--release", version}, 2, "firecracker-v1.17.3-x86_64.tgz.sha256.txt"},
		"no version":         {[]string{"--release", "../../evil", "--sha256", digest}, 2, "use a version such as"},
		"half a digest":      {[]string{"--release", version, "--sha256", digest[:32]}, 2, "64 hexadecimal digits"},
		"the known, spoiled": {[]string{"--archive", file}, 1, "not " + pinned.sha256},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			code, stdout, stderr := setup(t, base, append(c.args, "--dir", dir)...)
			if code != c.code || !strings.Contains(stdout+stderr, c.says) {
				t.Errorf("exit %d with %q, %q; want %d and %q", code, stdout, stderr, c.code, c.says)
			}
			left := entries(t, dir)
			if installed := len(left) == 1 && left[0] == "firecracker"; installed != (code == 0) || !installed && len(left) > 0 {
				t.Errorf("exit %d leaves %q", code, left)
			}
		})
	}
}

func TestReleaseThatIsTooOldIsSaid(t *testing.T) {
	t.Parallel()
	archive, digest := releaseArchive(t, "1.15.0", "1.15.0")
	code, _, stderr := setup(t, releases(t, "1.15.0", archive), "--release", "1.15.0", "--sha256", digest, "--dir", t.TempDir())
	if code != 1 || !strings.Contains(stderr, "1.16.1 or newer") {
		t.Errorf("exit %d with %q", code, stderr)
	}
}

func TestUnreachableReleaseSaysWhatToDo(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.NotFoundHandler())
	s.Close()
	dir := t.TempDir()
	code, _, stderr := setup(t, s.URL, "--dir", dir)
	if code != 1 || !strings.Contains(stderr, "--archive") || len(entries(t, dir)) > 0 {
		t.Errorf("exit %d with %q", code, stderr)
	}
}

func TestRedirectKeepsTheEncryption(t *testing.T) {
	t.Parallel()
	request := func(address string) *http.Request { return httptest.NewRequest(http.MethodGet, address, nil) }
	from := []*http.Request{request("https://releases.example/a")}
	if err := stayEncrypted(request("https://files.example/b"), from); err != nil {
		t.Error(err)
	}
	if err := stayEncrypted(request("http://files.example/b"), from); err == nil {
		t.Error("a redirect without encryption was followed")
	}
}
