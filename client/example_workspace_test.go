package client_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http/httptest"
	"os"
	"path/filepath"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/api"
	"github.com/dayfly/dayfly/client"
	"github.com/dayfly/dayfly/test/fakehost"
)

// exampleServer stands for a server of yours: its address, and a key of its admin.
func exampleServer() (address, key string, stop func()) {
	h := fakehost.New()
	srv := httptest.NewServer(api.New(h.ServerOptions()))
	return srv.URL, fakehost.AdminKey, func() {
		srv.CloseClientConnections()
		_ = h.Close()
		srv.Close()
	}
}

func ExampleWorkspace_Command() {
	address, key, stop := exampleServer()
	defer stop()
	ctx := context.Background()
	c, err := client.New(client.Options{Address: address, Key: key})
	if err != nil {
		panic(err)
	}
	made, err := c.Workspaces.Create(ctx, dayfly.Spec{Image: "base", Name: "builder"})
	if err != nil {
		panic(err)
	}
	defer c.Workspaces.Delete(context.WithoutCancel(ctx), made.ID)

	ws := c.Workspace("builder") // or its id, or the beginning of that
	out, err := ws.Command(ctx, "echo", "hello").Output()
	fmt.Printf("%s%v\n", out, err)

	cmd := ws.Command(ctx, "sh", "-c", "echo $WHAT; exit 3")
	cmd.Env, cmd.Stdout = []string{"WHAT=it fails"}, os.Stdout
	var exit *client.ExitError
	if err := cmd.Run(); errors.As(err, &exit) {
		fmt.Println(exit, exit.Code)
	}
	// Output:
	// hello
	// <nil>
	// it fails
	// exit status 3 3
}

func ExampleWorkspace_FS() {
	address, key, stop := exampleServer()
	defer stop()
	ctx := context.Background()
	c, err := client.New(client.Options{Address: address, Key: key})
	if err != nil {
		panic(err)
	}
	made, err := c.Workspaces.Create(ctx, dayfly.Spec{Image: "base"})
	if err != nil {
		panic(err)
	}
	ws := c.Workspace(string(made.ID))
	dir, err := os.MkdirTemp("", "example") // the fake workspace's files are this machine's
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	for _, name := range []string{"src/main.go", "src/lib/lib.go"} {
		if err := ws.WriteFile(ctx, filepath.Join(dir, name), []byte("package main\n")); err != nil {
			panic(err)
		}
	}
	src, err := fs.Sub(ws.FS(ctx), dir[1:]) // names in an fs.FS do not begin with a slash
	if err != nil {
		panic(err)
	}
	_ = fs.WalkDir(src, ".", func(path string, d fs.DirEntry, err error) error {
		fmt.Println(path, d.IsDir())
		return err
	})
	_, err = fs.ReadFile(src, "none")
	fmt.Println(errors.Is(err, fs.ErrNotExist))
	// Output:
	// . true
	// src true
	// src/lib true
	// src/lib/lib.go false
	// src/main.go false
	// true
}

func ExampleEvents_Follow() {
	address, key, stop := exampleServer()
	defer stop()
	ctx := context.Background()
	c, err := client.New(client.Options{Address: address, Key: key})
	if err != nil {
		panic(err)
	}
	if _, err := c.Workspaces.Create(ctx, dayfly.Spec{Image: "base"}); err != nil {
		panic(err)
	}
	for e, err := range c.Events.Follow(ctx, dayfly.EventQuery{}) {
		if err != nil {
			panic(err)
		}
		fmt.Println(e.Seq, e.Type)
		if e.Type == dayfly.WorkspaceRunning {
			break
		}
	}
	// Output:
	// 1 workspace.created
	// 2 workspace.running
}

func ExampleKeys_Create() {
	address, admin, stop := exampleServer()
	defer stop()
	ctx := context.Background()
	c, err := client.New(client.Options{Address: address, Key: admin})
	if err != nil {
		panic(err)
	}
	if _, err := c.Namespaces.Create(ctx, dayfly.Namespace{Name: "ci", Limits: dayfly.Limits{Running: 10}}); err != nil {
		panic(err)
	}
	_, secret, err := c.Keys.Create(ctx, dayfly.Key{Name: "runner", Namespace: "ci"})
	if err != nil {
		panic(err)
	}
	ci, err := client.New(client.Options{Address: address, Key: secret})
	if err != nil {
		panic(err)
	}
	quota, err := ci.Namespaces.Quota(ctx, "")
	fmt.Println(quota.Namespace, quota.Used.Running, "of", quota.Limits.Running, err)
	_, err = ci.Namespaces.List(ctx)
	fmt.Println(dayfly.KindOf(err))
	// Output:
	// ci 0 of 10 <nil>
	// denied
}
