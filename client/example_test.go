package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

// hello runs a script in a workspace of its own.
func hello(ctx context.Context, c *client.Client) (code int, err error) {
	ws, err := c.Workspaces.Create(ctx, dayfly.Spec{Image: "base", MemoryMiB: 1024})
	if err != nil {
		return 0, err // says what, why, and what to do
	}
	defer func() { err = errors.Join(err, c.Workspaces.Delete(context.WithoutCancel(ctx), ws.ID)) }()
	p, err := c.Start(ctx, ws.ID, client.Command{
		Path: "python3", Args: []string{"-"},
		Stdin:  strings.NewReader(`print("hello")`),
		Stdout: os.Stdout, Stderr: os.Stderr,
	})
	if err != nil {
		return 0, err
	}
	exit, err := p.Wait()
	return exit.Code, err
}

func Example() {
	c, err := client.New(client.Options{Address: "unix:///var/lib/dayfly/dayfly.sock"})
	if err != nil {
		log.Fatal(err)
	}
	code, err := hello(context.Background(), c)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("exit code", code)
}

func ExampleImages_Pull() {
	c, err := client.New(client.Options{Address: "http://127.0.0.1:7070"})
	if err != nil {
		log.Fatal(err)
	}
	im, err := c.Images.Pull(context.Background(), "alpine:3.22", "", func(p dayfly.Progress) {
		fmt.Println(p.Step, p.Done, "of", p.Total)
	})
	switch dayfly.KindOf(err) {
	case "":
		fmt.Println(im.Name, im.Digest)
	case dayfly.NotFound:
		fmt.Println("there is no such image")
	default:
		log.Fatal(err)
	}
}

func ExampleWorkspaces_Fork() {
	ctx := context.Background()
	c, err := client.New(client.Options{Address: "unix:///var/lib/dayfly/dayfly.sock"})
	if err != nil {
		log.Fatal(err)
	}
	ws, err := c.Workspaces.Create(ctx, dayfly.Spec{Image: "base"})
	if err != nil {
		log.Fatal(err)
	}
	copies, err := c.Workspaces.Fork(ctx, ws.ID, 3) // all three, or none
	if err != nil {
		log.Fatal(err)
	}
	for _, one := range copies {
		fmt.Println(one.ID, "is a copy of", one.Parent)
	}
}
