package main

import (
	"cmp"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

// noServer is the address that means: none, whatever is configured.
const noServer = "none"

// place is where the server is, and what is shown to it.
type place struct {
	address string // empty: in this process
	key     string
}

// find returns where the server is: a flag has the first word, then the
// environment, then what dayfly login has kept, then a server of the state
// directory that answers; else it is in this process.
func (a *app) find() (place, error) {
	if a.at != nil {
		return *a.at, nil
	}
	key, err := a.key()
	if err != nil {
		return place{}, err
	}
	p, err := a.findWith(key)
	if err != nil {
		return place{}, err
	}
	a.at = &p
	return p, nil
}

func (a *app) findWith(key string) (place, error) {
	address := cmp.Or(a.host, a.getenv("DAYFLY_SERVER"), a.getenv("DAYFLY_HOST"))
	switch {
	case address == noServer:
		return place{}, nil
	case strings.HasPrefix(address, "unix://"), address != "" && key != "":
		return place{address, key}, nil
	}
	l, err := a.readLogin()
	switch {
	case err != nil:
		return place{}, err
	case address != "" && address != l.Server: // the key is of another server, which alone may see it
		return place{address, ""}, nil
	case l.Server != "":
		return place{l.Server, cmp.Or(key, l.Key)}, nil
	}
	if path := a.socket(); answers(path) {
		return place{"unix://" + path, key}, nil
	}
	return place{}, nil
}

// key is the API key of the flag or the environment.
func (a *app) key() (string, error) {
	if a.keyFile == "" {
		return checkKey(a.getenv("DAYFLY_API_KEY"))
	}
	f, err := os.Open(a.keyFile)
	if err != nil {
		return "", dayfly.Errorf(dayfly.Invalid, "key-file: %w", err)
	}
	defer f.Close()
	return readKey(f)
}

// socket is where a server of the state directory listens by itself.
func (a *app) socket() string {
	dir, err := filepath.Abs(a.state)
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "dayfly.sock")
}

// answerTimeout bounds a connection to a socket of this machine.
const answerTimeout = 2 * time.Second

// answers says whether somebody listens at a socket; a dead server's is left alone.
func answers(path string) bool {
	if st, err := os.Lstat(path); err != nil || st.Mode().Type() != os.ModeSocket {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

// connect returns a client of the server that is configured, else of one
// inside this process.
func (a *app) connect() (*client.Client, error) {
	p, err := a.find()
	if err != nil {
		return nil, err
	}
	if p.address != "" {
		a.asked = true
		return client.New(client.Options{Address: p.address, Key: p.key, Namespace: a.inNamespace()})
	}
	if a.own == nil {
		log, err := a.logger()
		if err != nil {
			return nil, err
		}
		dir, err := filepath.Abs(a.state)
		if err != nil {
			return nil, err
		}
		back, err := a.newBackend(dir, log)
		if err != nil {
			return nil, err
		}
		if h, ok := back.(*host); ok {
			if h.jail, err = jailOf(a.jail); err != nil {
				return nil, err
			}
			h.vmm, h.firecracker = a.vmm, a.firecracker
		}
		a.own = startOwn(back, log)
	}
	return client.New(client.Options{Dial: a.own.Dial})
}

// needsServer returns an error unless there is a server for a workspace to run
// under once this command has ended.
func (a *app) needsServer(done string) error {
	p, err := a.find()
	if err != nil || p.address != "" {
		return err
	}
	return dayfly.Errorf(dayfly.Invalid, "a workspace that is %s needs a server to run under: "+
		"dayfly serve, then --host or DAYFLY_HOST; dayfly exec runs a command in a stopped or paused one without", done)
}

// withServer is withClient for what only a server that stays has.
func (a *app) withServer(cmd *cobra.Command, what string, do func(context.Context, *client.Client) error) error {
	p, err := a.find()
	if err != nil {
		return err
	}
	if p.address == "" {
		return dayfly.Errorf(dayfly.Invalid, "%s are kept by a server, and there is none: run dayfly serve; "+
			"for one elsewhere, name it with dayfly login, --host or DAYFLY_SERVER", what)
	}
	return a.withClient(cmd, do)
}

// inNamespace is the namespace that was chosen, if one was.
func (a *app) inNamespace() string {
	if a.everywhere {
		return ""
	}
	return cmp.Or(a.namespace, a.getenv("DAYFLY_NAMESPACE"))
}

// aloof are the commands that have nothing to do with namespaces.
var aloof = map[string]bool{
	"serve": true, "version": true, "doctor": true, "bench": true, "kernel": true, "image": true, "system": true,
	"login": true, "logout": true, "ns": true, "setup": true, "service": true,
}

// namespaceFlags adds --namespace to the commands it is for, with its letter
// where that is free.
func (a *app) namespaceFlags(c *cobra.Command) {
	for _, sub := range c.Commands() {
		if !aloof[sub.Name()] {
			a.namespaceFlags(sub)
		}
	}
	if !c.Runnable() || c.Flags().Lookup("namespace") != nil {
		return
	}
	letter := "n"
	if c.Flags().ShorthandLookup(letter) != nil {
		letter = ""
	}
	c.Flags().StringVarP(&a.namespace, "namespace", letter, "", "`NAMESPACE` to act in, for admins; others have one [DAYFLY_NAMESPACE]")
	_ = c.RegisterFlagCompletionFunc("namespace", a.completeNamespaces)
}
