package client_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/api"
	"github.com/dayfly/dayfly/client"
	"github.com/dayfly/dayfly/test/fakehost"
)

func TestCmdIsLikeThatOfOSExec(t *testing.T) {
	t.Parallel()
	c, _ := serve(t)
	ws := c.Workspace(string(workspace(t, c)))
	ctx := t.Context()
	if out, err := ws.Command(ctx, "printf", "%s", "a b").Output(); err != nil || string(out) != "a b" {
		t.Errorf("Output = %q, %v", out, err)
	}
	if out, err := ws.Command(ctx, "sh", "-c", "echo a; echo b >&2").CombinedOutput(); err != nil || len(out) != 4 {
		t.Errorf("CombinedOutput = %q, %v", out, err)
	}
	cmd := ws.Command(ctx, "sh", "-c", "cat; pwd; echo $A $B; id -un")
	cmd.Stdin, cmd.Dir, cmd.Env, cmd.User = strings.NewReader("in\n"), "/usr", []string{"A=1", "B=x=y"}, "nobody"
	if out, err := cmd.Output(); err != nil || string(out) != "in\n/usr\n1 x=y\nnobody\n" {
		t.Errorf("Output = %q, %v", out, err)
	}
	_, err := ws.Command(ctx, "sh", "-c", "echo why >&2; exit 3").Output()
	var exit *client.ExitError
	if !errors.As(err, &exit) || exit.Code != 3 || string(exit.Stderr) != "why\n" || err.Error() != "exit status 3" {
		t.Errorf("Output: %v, %+v", err, exit)
	}
	if err := ws.Command(ctx, "sh", "-c", "kill -KILL $$").Run(); !errors.As(err, &exit) || exit.Signal != 9 || err.Error() != "signal: killed" {
		t.Errorf("Run: %v", err)
	}
	err = ws.Command(ctx, "no-such-program").Run()
	if code, ok := client.ExitCode(err); !ok || code != 127 {
		t.Errorf("Run: %v", err)
	}
	for _, bad := range []*client.Cmd{{}, {Env: []string{"x"}}} {
		cmd := ws.Command(ctx, "true")
		if bad.Env != nil {
			cmd.Env = bad.Env
		} else if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err == nil {
			t.Errorf("%+v was started", cmd)
		}
	}
}

func TestCmdDiesWithItsContext(t *testing.T) {
	t.Parallel()
	c, _ := serve(t)
	ws := c.Workspace(string(workspace(t, c)))
	ctx, cancel := context.WithCancel(t.Context())
	out := &lines{c: make(chan string, 4)}
	cmd := ws.Command(ctx, "sh", "-c", "echo up; sleep 1000")
	cmd.Stdout = out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-out.c
	cancel()
	if err := cmd.Wait(); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait: %v", err)
	}
	if list, err := c.Workspaces.Processes(t.Context(), ws.ID); err != nil || len(list) != 0 {
		t.Errorf("left behind: %v, %v", list, err)
	}
	if err := ws.Command(ctx, "true").Run(); !errors.Is(err, context.Canceled) {
		t.Errorf("Run: %v", err)
	}
}

func TestFilesAreAFileSystem(t *testing.T) {
	t.Parallel()
	c, _ := serve(t)
	ws := c.Workspace(string(workspace(t, c)))
	ctx, dir := t.Context(), t.TempDir()
	if err := ws.MkdirAll(ctx, dir+"/a/empty"); err != nil {
		t.Fatal(err)
	}
	for range 2 { // again: it is there
		if err := ws.MkdirAll(ctx, dir+"/a/b"); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string]string{"a/one": "1", "a/b/two words & more": strings.Repeat("x", 1<<20), "a/none": ""} {
		if err := ws.WriteFile(ctx, filepath.Join(dir, name), []byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := ws.Upload(ctx, dir+"/streamed", io.LimitReader(strings.NewReader("streamed, not more"), 8)); err != nil {
		t.Fatal(err)
	}
	sub, err := fs.Sub(ws.FS(ctx), strings.TrimPrefix(dir, "/"))
	if err != nil {
		t.Fatal(err)
	}
	if err := fstest.TestFS(sub, "a/one", "a/b/two words & more", "a/none", "a/empty", "streamed"); err != nil {
		t.Error(err)
	}
	if b, err := fs.ReadFile(sub, "streamed"); err != nil || string(b) != "streamed" {
		t.Errorf("ReadFile = %q, %v", b, err)
	}
	if b, err := ws.ReadFile(ctx, dir+"/a/one"); err != nil || string(b) != "1" {
		t.Errorf("ReadFile = %q, %v", b, err)
	}
	if err := os.Symlink("one", filepath.Join(dir, "a", "link")); err != nil {
		t.Fatal(err)
	}
	if info, err := fs.Stat(sub, "a/link"); err != nil || info.Size() != 1 || !info.Mode().IsRegular() || info.Name() != "link" {
		t.Errorf("Stat = %+v, %v", info, err)
	}
	if list, err := fs.ReadDir(sub, "a"); err != nil || len(list) != 5 || list[2].Type() != fs.ModeSymlink {
		t.Errorf("ReadDir = %v, %v", list, err)
	}
	if err := ws.Remove(ctx, dir+"/a"); err != nil {
		t.Error(err)
	}
	if _, err := fs.Stat(sub, "a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Stat: %v", err)
	}
	if _, err := ws.Stat(ctx, dir+"/a"); !errors.Is(err, fs.ErrNotExist) || dayfly.KindOf(err) != dayfly.NotFound {
		t.Errorf("Stat: %v", err)
	}
	if _, err := ws.ReadFile(ctx, dir); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("ReadFile: %v", err)
	}
}

// keyed returns a client of a server that asks for keys, as an admin.
func keyed(t *testing.T) (*client.Client, func(key string) *client.Client) {
	t.Helper()
	h := fakehost.New()
	s := api.New(h.ServerOptions())
	srv := httptest.NewServer(s)
	with := func(key string) *client.Client {
		c, err := client.New(client.Options{Address: srv.URL, Key: key})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	t.Cleanup(func() {
		srv.CloseClientConnections()
		_ = h.Close()
		srv.Close()
		_ = s.Close()
	})
	return with(fakehost.AdminKey), with
}

func TestKeysNamespacesAndQuota(t *testing.T) {
	t.Parallel()
	admin, with := keyed(t)
	ctx := t.Context()
	if _, err := admin.Namespaces.Create(ctx, dayfly.Namespace{Name: "red", Limits: dayfly.Limits{Running: 3}}); err != nil {
		t.Fatal(err)
	}
	key, secret, err := admin.Keys.Create(ctx, dayfly.Key{Name: "ci", Namespace: "red"})
	if err != nil || key.Namespace != "red" {
		t.Fatal(key, err)
	}
	red := with(secret)
	ws, err := red.Workspaces.CreateWith(ctx, dayfly.Spec{Image: fakehost.Base, Metadata: map[string]string{"a": "b=c"}}, dayfly.CreateOptions{Once: "one"})
	if err != nil || ws.Namespace != "red" {
		t.Fatal(ws, err)
	}
	if again, err := red.Workspaces.CreateWith(ctx, dayfly.Spec{Image: fakehost.Base}, dayfly.CreateOptions{Once: "one"}); err != nil || again.ID != ws.ID {
		t.Error(again.ID, err)
	}
	if q, err := red.Namespaces.Quota(ctx, ""); err != nil || q.Limits.Running != 3 || q.Used.Workspaces != 1 {
		t.Errorf("%+v, %v", q, err)
	}
	if p, err := red.Workspaces.Page(ctx, dayfly.Query{Metadata: map[string]string{"a": "b=c"}, States: []dayfly.State{dayfly.Running}, Order: dayfly.ByName}); err != nil || len(p.Workspaces) != 1 {
		t.Errorf("%+v, %v", p, err)
	}
	name := "mayfly"
	if got, err := red.Workspaces.Update(ctx, ws.ID, dayfly.Update{Name: &name}); err != nil || got.Name != name {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := red.Workspaces.Get(ctx, "mayfly"); err != nil || got.ID != ws.ID {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := red.Workspaces.KeepAlive(ctx, ws.ID[:6], new(60)); err != nil || got.ExpiresAt == nil {
		t.Errorf("%+v, %v", got, err)
	}
	token, err := red.Workspaces.Token(ctx, ws.ID, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := with(token.Token).Workspaces.Metrics(ctx, ws.ID); err != nil {
		t.Error(err)
	}
	_, err = with(token.Token).Workspaces.List(ctx)
	kindIs(t, err, dayfly.Denied)
	_, err = with("").Workspaces.List(ctx)
	kindIs(t, err, dayfly.Denied)
	if log, err := red.Keys.Audit(ctx, dayfly.AuditQuery{}); dayfly.KindOf(err) != dayfly.Denied {
		t.Error(log, err)
	}
	if log, err := admin.Keys.Audit(ctx, dayfly.AuditQuery{Namespace: "red", Limit: 1}); err != nil || len(log) != 1 || log[0].Key != key.ID {
		t.Errorf("%+v, %v", log, err)
	}
	if err := admin.Keys.Revoke(ctx, key.ID); err != nil {
		t.Error(err)
	}
	_, err = red.Workspaces.List(ctx)
	kindIs(t, err, dayfly.Denied)
	if keys, err := admin.Keys.List(ctx); err != nil || len(keys) != 2 || keys[0].RevokedAt == nil {
		t.Errorf("%+v, %v", keys, err)
	}
	kindIs(t, admin.Namespaces.Delete(ctx, "red"), dayfly.Conflict)
	if err := admin.Workspaces.Delete(ctx, ws.ID); err != nil {
		t.Error(err)
	}
	if err := admin.Namespaces.Delete(ctx, "red"); err != nil {
		t.Error(err)
	}
}

func TestEventsGoOnAndLogsAreRead(t *testing.T) {
	t.Parallel()
	c, _ := keyed(t)
	ctx := t.Context()
	ws, err := c.Workspaces.Create(ctx, dayfly.Spec{Image: fakehost.Base})
	if err != nil {
		t.Fatal(err)
	}
	var seen []dayfly.EventType
	for e, err := range c.Events.Follow(ctx, dayfly.EventQuery{Workspace: ws.ID}) {
		if err != nil {
			t.Fatal(err)
		}
		if seen = append(seen, e.Type); len(seen) == 2 {
			if err := c.Workspaces.Delete(ctx, ws.ID); err != nil {
				t.Fatal(err)
			}
		}
		if e.Type == dayfly.WorkspaceDeleted {
			break
		}
	}
	if list, err := c.Events.List(ctx, dayfly.EventQuery{After: 1, Limit: 1}); err != nil || len(list) != 1 || len(seen) != 3 {
		t.Errorf("%v, %v, %v", list, seen, err)
	}
	if ws, err = c.Workspaces.Create(ctx, dayfly.Spec{Image: fakehost.Base}); err != nil {
		t.Fatal(err)
	}
	log, err := c.Workspaces.Log(ctx, ws.ID, dayfly.LogQuery{Tail: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if b, err := io.ReadAll(log); err != nil || string(b) != "three\n" {
		t.Errorf("%q, %v", b, err)
	}
	for m, err := range c.Workspaces.WatchMetrics(ctx, ws.ID, time.Second) {
		if err != nil || m.CPUs != 1 {
			t.Errorf("%+v, %v", m, err)
		}
		break
	}
	hook, err := c.Webhooks.Create(ctx, dayfly.Webhook{URL: "https://example.org"})
	if err != nil || hook.Secret == "" {
		t.Fatal(hook, err)
	}
	hook.Active = false
	if hook, err = c.Webhooks.Update(ctx, hook); err != nil || hook.Active {
		t.Errorf("%+v, %v", hook, err)
	}
	if list, err := c.Webhooks.Deliveries(ctx, hook.ID); err != nil || len(list) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
	if err := c.Webhooks.Delete(ctx, hook.ID); err != nil {
		t.Error(err)
	}
	if list, err := c.Webhooks.List(ctx); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
	if err := c.Host.Ready(ctx); err != nil {
		t.Error(err)
	}
}

// busy is a transport to a server that is busy so many times.
type busy struct {
	times int32
	asked atomic.Int32
	wait  string
}

func (b *busy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	if b.asked.Add(1) > b.times {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(201)
		_, _ = io.WriteString(w, `{"workspaces":[]}`)
		return
	}
	if b.wait != "" {
		w.Header().Set("Retry-After", b.wait)
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(429)
	_, _ = io.WriteString(w, `{"kind":"exhausted","detail":"full"}`)
}

func TestBusyServersAreAskedAgainWhereThatIsSafe(t *testing.T) {
	t.Parallel()
	list := func(ctx context.Context, c *client.Client) error { _, err := c.Workspaces.List(ctx); return err }
	create := func(once string) func(context.Context, *client.Client) error {
		return func(ctx context.Context, c *client.Client) error {
			_, err := c.Workspaces.CreateWith(ctx, dayfly.Spec{Image: "base"}, dayfly.CreateOptions{Once: once})
			return err
		}
	}
	fork := func(o ...client.Option) func(context.Context, *client.Client) error {
		return func(ctx context.Context, c *client.Client) error {
			_, err := c.Workspaces.Fork(ctx, dayfly.NewID(), 1, o...)
			return err
		}
	}
	for name, tc := range map[string]struct {
		server *busy
		do     func(context.Context, *client.Client) error
		asked  int32
		works  bool
	}{
		"a list":                   {&busy{times: 2, wait: "3"}, list, 3, true},
		"not for ever":             {&busy{times: 100, wait: "1"}, list, 4, false},
		"a server that wants more": {&busy{times: 1, wait: "3600"}, list, 1, false},
		"one that says nothing":    {&busy{times: 1}, list, 1, false},
		"a creation":               {&busy{times: 1, wait: "1"}, create(""), 1, false},
		"a creation that is once":  {&busy{times: 1, wait: "1"}, create("k"), 2, true},
		"a fork":                   {&busy{times: 1, wait: "1"}, fork(), 1, false},
		"a fork that is once":      {&busy{times: 1, wait: "1"}, fork(client.Once("k")), 2, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c, _, done := overPipes(t, tc.server)
				err := tc.do(t.Context(), c)
				if asked := tc.server.asked.Load(); (err == nil) != tc.works || asked != tc.asked {
					t.Errorf("asked %d times: %v", asked, err)
				}
				var e *dayfly.Error
				if tc.server.wait == "3600" && (!errors.As(err, &e) || e.RetryAfter != time.Hour) {
					t.Errorf("%v", err)
				}
				done()
			})
		})
	}
}
