package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

const loginLong = `Keep a server's address and an API key for the commands that follow, once the
server has accepted the key. The key is asked for without showing it, or read
from standard input; a server's unix socket needs none. Both go to
$XDG_CONFIG_HOME/dayfly/login.yaml, which only you can read. Flags and the
environment still come first.`

func (a *app) loginCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "login [SERVER]", Short: "Use a server from now on", Long: loginLong,
		Example: `  dayfly login https://dayfly.example:7070
  dayfly login https://dayfly.example:7070 <key.txt`,
		Args: atMost(1),
	}
	open := cmd.Flags().Bool("insecure", false, "send the key over http to another machine, where all on the way can read it")
	cmd.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 1 {
			a.host = args[0]
		}
		return a.logIn(c, *open)
	}
	return cmd
}

func (a *app) logIn(c *cobra.Command, open bool) error {
	p, err := a.find()
	switch {
	case err != nil:
		return err
	case p.address == "":
		return wrongUsage(c, errors.New("name a server, such as https://dayfly.example:7070"))
	case !open && inTheClear(p.address):
		return dayfly.Errorf(dayfly.Denied, "%s is http to another machine: all on the way could read the key; use https, or --insecure where the network is yours alone", p.address)
	}
	if _, err := client.New(client.Options{Address: p.address}); err != nil {
		return err
	}
	l := login{Server: p.address}
	if !strings.HasPrefix(p.address, "unix://") {
		if l.Key, err = a.askKey(); err != nil {
			return err
		}
	}
	who := ""
	a.at = &place{l.Server, l.Key}
	err = a.withClient(c, func(ctx context.Context, cl *client.Client) error {
		who, err = whoami(ctx, cl)
		return err
	})
	if err != nil {
		return err
	}
	if err := a.writeLogin(l); err != nil {
		return err
	}
	fmt.Fprintf(a.stderr, "logged in to %s %s\n", l.Server, who)
	return nil
}

// inTheClear says whether what is sent to an address can be read on its way.
func inTheClear(address string) bool {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback())
}

// askKey takes the key from --key-file, the environment, a person, or standard input.
func (a *app) askKey() (string, error) {
	if key, err := a.key(); key != "" || err != nil {
		return key, err
	}
	f, ok := file(a.stdin)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return readKey(a.stdin)
	}
	fmt.Fprint(a.stderr, "API key: ")
	b, err := readHidden(f)
	fmt.Fprintln(a.stderr)
	if err != nil {
		return "", dayfly.Errorf(dayfly.Invalid, "key: %w", err)
	}
	return readKey(strings.NewReader(string(b)))
}

// readHidden reads a line from a terminal without showing it. A signal puts the
// terminal back before it ends the process.
func readHidden(f *os.File) ([]byte, error) {
	state, err := term.GetState(int(f.Fd()))
	if err != nil {
		return nil, err
	}
	ch := notify(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer close(ch)
	defer signal.Stop(ch)
	go func() {
		if s, ok := <-ch; ok {
			_ = term.Restore(int(f.Fd()), state)
			os.Exit(exitSignalled + int(s.(syscall.Signal)))
		}
	}()
	return term.ReadPassword(int(f.Fd()))
}

// whoami says as whom a server takes the caller.
func whoami(ctx context.Context, cl *client.Client) (string, error) {
	if _, err := cl.Namespaces.List(ctx); dayfly.KindOf(err) != dayfly.Denied {
		return "as an admin", err
	}
	q, err := cl.Namespaces.Quota(ctx, "") // which only whoever the server knows may ask
	return "in namespace " + oneLine(q.Namespace), err
}

func (a *app) logoutCommand() *cobra.Command {
	return &cobra.Command{
		Use: "logout", Short: "Forget the server and key of dayfly login", Args: noArgs,
		Long: `Forget the server and key of dayfly login. The key stays valid: dayfly key
revoke ends it.`,
		Example: "  dayfly logout",
		RunE: func(*cobra.Command, []string) error {
			err := os.Remove(a.loginPath())
			if errors.Is(err, fs.ErrNotExist) {
				_, _ = io.WriteString(a.stderr, "not logged in\n")
				return nil
			}
			return err
		},
	}
}

// atMost is a cobra.PositionalArgs for commands whose arguments may be left out.
func atMost(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) > n {
			return wrongUsage(c, fmt.Errorf("%q is one argument too many", args[n]))
		}
		return nil
	}
}
