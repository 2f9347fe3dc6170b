package image_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/image"
	"github.com/dayfly/dayfly/image/layer/layertest"
	"github.com/dayfly/dayfly/test/needs"
)

// server is a registry on this host. Its front sees every request first, and
// answers it by returning true.
type server struct {
	host  string
	blobs atomic.Int64 // downloads of blobs
	front atomic.Pointer[func(http.ResponseWriter, *http.Request) bool]
}

func serve(t testing.TB) *server {
	t.Helper()
	behind := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s := &server{}
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f := s.front.Load(); f != nil && (*f)(w, r) {
			return
		}
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			s.blobs.Add(1)
		}
		behind.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		remote.DefaultTransport.(*http.Transport).CloseIdleConnections()
		h.Close()
	})
	s.host = h.Listener.Addr().String()
	return s
}

func (s *server) intercept(f func(http.ResponseWriter, *http.Request) bool) { s.front.Store(&f) }

// push puts an image into the registry and returns its reference.
func (s *server) push(t testing.TB, repo string, img v1.Image) string {
	t.Helper()
	ref, err := name.ParseReference(s.host + "/" + repo)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	return ref.String()
}

func TestPullGetsAnImageAndOnlyWhatIsMissing(t *testing.T) {
	t.Parallel()
	needs.Root(t)
	reg := serve(t)
	shared := layertest.Tar(t, layertest.File("shared", "1"))
	img := zipped(t, shared, layertest.Tar(t, layertest.File("own", "2")), shared) // one blob twice
	ref := reg.push(t, "team/app:v1", img)
	s, dir := open(t, image.Limits{})
	got, err := s.Pull(t.Context(), ref, image.PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if got.Digest != want.String() || got.Name != ref {
		t.Errorf("image is %+v, want digest %s", got, want)
	}
	holds(t, s, ref, `f 0644 0:0 own "2"`, `f 0644 0:0 shared "1"`)
	tidy(t, dir)
	before := reg.blobs.Load()
	if before != 3 { // the config and two layers
		t.Errorf("%d blobs were downloaded, want 3", before)
	}
	byDigest := strings.TrimSuffix(ref, ":v1") + "@" + want.String()
	for _, again := range []string{ref, byDigest} {
		if _, err := s.Pull(t.Context(), again, image.PullOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if n := reg.blobs.Load() - before; n > 2 { // the config again, to know the image by
		t.Errorf("pulling again downloaded %d blobs", n)
	}
	if _, err := s.Lookup(t.Context(), byDigest); err != nil {
		t.Error(err)
	}
}

func TestPullChoosesThePlatform(t *testing.T) {
	t.Parallel()
	needs.Root(t)
	reg := serve(t)
	ref, err := name.ParseReference(reg.host + "/multi:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, index(t, "linux/arm64", "linux/amd64")); err != nil {
		t.Fatal(err)
	}
	s, _ := open(t, image.Limits{})
	img, err := s.Pull(t.Context(), ref.String(), image.PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if img.Platform != "linux/amd64" {
		t.Errorf("platform is %s", img.Platform)
	}
	holds(t, s, ref.String(), `f 0644 0:0 platform "linux/amd64"`)
	_, err = s.Pull(t.Context(), ref.String(), image.PullOptions{Platform: "linux/s390x"})
	refused(t, err, dayfly.NotFound, "linux/s390x", "linux/arm64, linux/amd64")
}

// TestPullUsesDockersCredentials sets an environment variable, so it cannot
// run beside others.
func TestPullUsesDockersCredentials(t *testing.T) {
	needs.Root(t)
	reg := serve(t)
	ref := reg.push(t, "private:1", hello(t))
	const login = "someone:a password"
	reg.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") == "Basic "+base64.StdEncoding.EncodeToString([]byte(login)) {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="private"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	config := t.TempDir()
	t.Setenv("DOCKER_CONFIG", config)
	s, dir := open(t, image.Limits{})
	_, err := s.Pull(t.Context(), ref, image.PullOptions{})
	refused(t, err, dayfly.Denied, "docker login "+reg.host)
	bare(t, dir)
	auth := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, reg.host, base64.StdEncoding.EncodeToString([]byte(login)))
	if err := os.WriteFile(filepath.Join(config, "config.json"), []byte(auth), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Pull(t.Context(), ref, image.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	holds(t, s, ref, `f 0644 0:0 hello "world"`)
}

func TestPullOfNothingSaysSo(t *testing.T) {
	t.Parallel()
	needs.Root(t)
	reg := serve(t)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	s, dir := open(t, image.Limits{})
	for ref, c := range map[string]struct {
		kind dayfly.Kind
		says string
	}{
		reg.host + "/none:1":                 {dayfly.NotFound, "none:1"},
		closed.Addr().String() + "/app:1":    {dayfly.Unavailable, "connection refused"},
		"no-such-host.invalid/app:1":         {dayfly.Unavailable, "no-such-host.invalid"},
		"UPPER CASE":                         {dayfly.Invalid, "name of an image"},
		"":                                   {dayfly.Invalid, "name of an image"},
		reg.host + "/none@sha256:0123456789": {dayfly.Invalid, "name of an image"},
	} {
		_, err := s.Pull(t.Context(), ref, image.PullOptions{})
		refused(t, err, c.kind, c.says)
	}
	bare(t, dir)
}

// TestRegistryThatLiesIsRefused has a registry that sends something else than
// was pushed.
func TestRegistryThatLiesIsRefused(t *testing.T) {
	t.Parallel()
	needs.Root(t)
	img := hello(t)
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	size, err := layers[0].Size()
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		answer func(w http.ResponseWriter)
		kind   dayfly.Kind
		says   string
	}{
		"other content": {func(w http.ResponseWriter) { _, _ = w.Write(make([]byte, size)) }, dayfly.Invalid, "another digest"},
		"too much":      {func(w http.ResponseWriter) { _, _ = w.Write(make([]byte, size+1)) }, dayfly.Invalid, "longer than"},
		"endless": {func(w http.ResponseWriter) {
			for {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		}, dayfly.Invalid, "longer than"},
		"too little": {func(w http.ResponseWriter) { _, _ = w.Write(make([]byte, size-1)) }, dayfly.Unavailable, "ends after"},
		"less than it says": {func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", fmt.Sprint(size))
			_, _ = w.Write([]byte("x"))
		}, dayfly.Unavailable, "ends after"},
		"nothing of it":  {func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) }, dayfly.NotFound, "has no"},
		"fewer requests": {func(w http.ResponseWriter) { w.WriteHeader(http.StatusTooManyRequests) }, dayfly.Unavailable, "fewer requests"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			reg := serve(t)
			ref := reg.push(t, "app:1", img)
			reg.intercept(func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.HasSuffix(r.URL.Path, digest.String()) {
					return false
				}
				c.answer(w)
				return true
			})
			s, dir := open(t, image.Limits{})
			_, err := s.Pull(t.Context(), ref, image.PullOptions{})
			refused(t, err, c.kind, c.says)
			bare(t, dir)
		})
	}
}

func TestDownloadThatBreaksOffIsTakenUpAgain(t *testing.T) {
	t.Parallel()
	needs.Root(t)
	reg := serve(t)
	img := hello(t)
	ref := reg.push(t, "app:1", img)
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	var tries atomic.Int64
	reg.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, digest.String()) || tries.Add(1) > 2 {
			return false
		}
		_, _ = w.Write([]byte("only this"))
		return true
	})
	s, _ := open(t, image.Limits{})
	if _, err := s.Pull(t.Context(), ref, image.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	holds(t, s, ref, `f 0644 0:0 hello "world"`)
}

func TestACertificateNobodyVouchesForTakesAWord(t *testing.T) {
	t.Parallel()
	needs.Root(t)
	reg := httptest.NewUnstartedServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	reg.Config.ErrorLog = log.New(io.Discard, "", 0)
	reg.StartTLS()
	t.Cleanup(reg.Close)
	ref, err := name.ParseReference(reg.Listener.Addr().String() + "/app:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, hello(t), remote.WithTransport(reg.Client().Transport)); err != nil {
		t.Fatal(err)
	}
	s, _ := open(t, image.Limits{})
	_, err = s.Pull(t.Context(), ref.String(), image.PullOptions{})
	refused(t, err, dayfly.Unavailable)
	if _, err := s.Pull(t.Context(), ref.String(), image.PullOptions{Insecure: true}); err != nil {
		t.Fatal(err)
	}
	holds(t, s, ref.String(), `f 0644 0:0 hello "world"`)
}

func TestPullThatIsCancelledLeavesNothing(t *testing.T) {
	t.Parallel()
	needs.Root(t)
	reg := serve(t)
	ref := reg.push(t, "app:1", hello(t))
	ctx, cancel := context.WithCancel(t.Context())
	reg.intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		cancel()
		<-r.Context().Done()
		return true
	})
	s, dir := open(t, image.Limits{})
	if _, err := s.Pull(ctx, ref, image.PullOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v, want %v", err, context.Canceled)
	}
	bare(t, dir)
}
