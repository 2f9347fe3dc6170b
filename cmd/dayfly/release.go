package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/dayfly/dayfly"
)

// Bounds of a release of Firecracker: its archive has 8 MB, the program in it 4.
const (
	maxArchive   = 128 << 20 // bytes
	maxProgram   = 64 << 20  // bytes
	maxMembers   = 1000
	fetchLimit   = 10 * time.Minute
	maxRedirects = 5
)

// release is one release of Firecracker's for this kind of processor.
type release struct {
	base    string // address of all releases
	version string // such as 1.16.2
	sha256  string // of the archive, in hexadecimal
	archive string // a file to take instead of fetching; "": none
}

func (r release) archiveName() string { return "firecracker-v" + r.version + "-x86_64.tgz" }

// member is the program's name in the archive.
func (r release) member() string {
	return fmt.Sprintf("release-v%s-x86_64/firecracker-v%s-x86_64", r.version, r.version)
}

// install puts the program into a directory and returns its path. Nothing is
// taken out of an archive that is not the one expected, and what is there
// already is replaced at once or not at all.
func (r release) install(ctx context.Context, dir string) (path string, err error) {
	if runtime.GOARCH != "amd64" {
		return "", dayfly.Errorf(dayfly.Unavailable, "firecracker is installed on x86-64 alone")
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return "", err
	}
	got, err := os.CreateTemp(dir, ".firecracker-*.tgz")
	if errors.Is(err, fs.ErrPermission) {
		return "", &dayfly.Error{Kind: dayfly.Denied, Err: err, Msg: "the directory " + dir + " is not writable: run as root, or choose another with --dir"}
	}
	if err != nil {
		return "", dayfly.Errorf(dayfly.Invalid, "--dir: %w", err)
	}
	defer func() { err = errors.Join(err, got.Close(), os.Remove(got.Name())) }()
	if err := r.take(ctx, got); err != nil {
		return "", err
	}
	path = filepath.Join(dir, "firecracker")
	if err := r.unpack(got, path); err != nil {
		return "", err
	}
	return path, nil
}

// take copies the archive into a file, and refuses another one.
func (r release) take(ctx context.Context, to *os.File) error {
	ctx, cancel := context.WithTimeoutCause(ctx, fetchLimit, dayfly.Errorf(dayfly.Unavailable, "the release did not come within %s", fetchLimit))
	defer cancel()
	from, err := r.open(ctx)
	if err != nil {
		return err
	}
	defer from.Close()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(to, sum), io.LimitReader(from, maxArchive+1))
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return dayfly.Errorf(dayfly.Unavailable, "the release could not be fetched to its end: %w", err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); n > maxArchive || got != r.sha256 {
		return dayfly.Errorf(dayfly.Invalid, "this is not the release: the SHA-256 of the archive is %s, not %s; nothing was installed", got, r.sha256)
	}
	return nil
}

func (r release) open(ctx context.Context) (io.ReadCloser, error) {
	if r.archive != "" {
		f, err := os.Open(r.archive)
		if err != nil {
			return nil, dayfly.Errorf(dayfly.Invalid, "--archive: %w", err)
		}
		return f, nil
	}
	address, err := url.JoinPath(r.base, "download", "v"+r.version, r.archiveName())
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	resp, err := (&http.Client{CheckRedirect: stayEncrypted}).Do(req)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.Join(errors.New(resp.Status), resp.Body.Close())
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, dayfly.Errorf(dayfly.Unavailable, "the release cannot be fetched from here (%w): fetch %s on another machine, and name the file by --archive", err, address)
	}
	return resp.Body, nil
}

// stayEncrypted follows no redirect that leaves https.
func stayEncrypted(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return errors.New("too many redirects")
	}
	if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return errors.New("a redirect to a connection without encryption")
	}
	return nil
}

// unpack takes the program out of the archive.
func (r release) unpack(archive io.ReadSeeker, path string) error {
	if _, err := archive.Seek(0, io.SeekStart); err != nil {
		return err
	}
	z, err := gzip.NewReader(archive)
	if err != nil {
		return dayfly.Errorf(dayfly.Invalid, "the archive cannot be read: %w", err)
	}
	in := tar.NewReader(z)
	for range maxMembers {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return dayfly.Errorf(dayfly.Invalid, "the archive cannot be read: %w", err)
		}
		if h.Name != r.member() || h.Typeflag != tar.TypeReg {
			continue
		}
		if h.Size > maxProgram {
			return dayfly.Errorf(dayfly.Invalid, "the program in the archive has %d bytes: at most %d can be", h.Size, maxProgram)
		}
		return putProgram(in, path)
	}
	return dayfly.Errorf(dayfly.Invalid, "the archive has no %s", r.member())
}

// putProgram writes a program under another name, and then under its own. No
// process is started meanwhile: one that had the file open for writing until its
// exec would keep the program from being run (ETXTBSY, golang.org/issue/22315).
func putProgram(from io.Reader, path string) (err error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".firecracker-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = io.Copy(f, from)
	if err == nil {
		err = f.Chmod(0o755)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
