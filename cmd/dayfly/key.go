package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

func (a *app) keyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "key", Aliases: []string{"keys"}, Short: "Manage API keys", Args: noArgs,
		Long: `Manage API keys. A key is an admin's, or bound to one namespace. The server keeps
no key, only what it takes to know one again: a lost key is revoked and replaced.`,
	}
	cmd.AddCommand(a.keyCreateCommand(), a.keyLsCommand(), a.keyRevokeCommand())
	return cmd
}

// newKey is what key create prints as JSON.
type newKey struct {
	dayfly.Key
	Secret string `json:"secret"`
}

func (a *app) keyCreateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "create", Short: "Make an API key and print it, once", Args: noArgs,
		Example: `  dayfly key create -n team --name ci --expires 90d
  dayfly key create --admin --name ops >ops.key`,
	}
	fl := cmd.Flags()
	name := fl.String("name", "", "what the key is for, such as its owner")
	admin := fl.Bool("admin", false, "an admin's key, which may do everything in every namespace")
	var expires span
	fl.Var(&expires, "expires", "how long it is valid, such as 90d or 12h (default: until it is revoked)")
	out := outputFlags(cmd)
	cmd.RunE = func(c *cobra.Command, _ []string) error {
		k := dayfly.Key{Name: *name, Namespace: a.inNamespace()}
		switch {
		case *admin && a.namespace != "":
			return wrongUsage(c, errors.New("--admin and --namespace are both given: an admin's key is bound to none"))
		case *admin:
			k.Namespace = ""
		case k.Namespace == "":
			return wrongUsage(c, errors.New("say what the key opens: --namespace NAME, or everything with --admin"))
		}
		a.everywhere = true // the namespace is the key's, not that of this call
		if expires != 0 {
			at := time.Now().Add(time.Duration(expires)).UTC().Truncate(time.Second)
			k.ExpiresAt = &at
		}
		return a.withServer(c, "keys", func(ctx context.Context, cl *client.Client) error {
			made, secret, err := cl.Keys.Create(ctx, k)
			switch {
			case err != nil:
				return err
			case out.scripted():
				return out.print(a.stdout, newKey{made, secret})
			}
			fmt.Fprintf(a.stderr, "key %s: it is not shown again\n", made.ID)
			fmt.Fprintln(a.stdout, secret)
			return nil
		})
	}
	return cmd
}

func (a *app) keyLsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List API keys, newest first", Args: noArgs,
		Example: "  dayfly key ls --format '{{.id}} {{.used_at}}'",
	}
	out := outputFlags(cmd)
	cmd.RunE = func(c *cobra.Command, _ []string) error {
		return a.withServer(c, "keys", func(ctx context.Context, cl *client.Client) error {
			list, err := cl.Keys.List(ctx)
			switch {
			case err != nil:
				return err
			case out.scripted():
				return printList(a, out, list)
			}
			rows := [][]string{{"ID", "NAME", "NAMESPACE", "AGE", "USED", "EXPIRES", "STATE"}}
			for _, k := range list {
				rows = append(rows, []string{k.ID, k.Name, orElse(k.Namespace, "(admin)"), ago(k.CreatedAt), orElse(moment(k.UsedAt), "never"), orElse(moment(k.ExpiresAt), "never"), validity(k)})
			}
			return table(a.stdout, rows...)
		})
	}
	return cmd
}

func validity(k dayfly.Key) string {
	switch {
	case k.RevokedAt != nil:
		return "revoked"
	case !k.Valid(time.Now()):
		return "expired"
	}
	return "valid"
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func (a *app) keyRevokeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "revoke KEY...", Aliases: []string{"rm"}, Short: "End API keys, by their ids, and all that they have open",
		Example: "  dayfly key revoke $(dayfly key ls --format '{{if eq .name \"ci\"}}{{.id}}{{end}}')",
		Args:    atLeast(1, "name the id of a key (see: dayfly key ls)"),
	}
	cmd.ValidArgsFunction = func(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		var ids []string
		_ = a.withClient(c, func(ctx context.Context, cl *client.Client) error {
			list, err := cl.Keys.List(ctx)
			for _, k := range list {
				if k.Valid(time.Now()) {
					ids = append(ids, cobra.CompletionWithDesc(k.ID, k.Name))
				}
			}
			return err
		})
		return ids, cobra.ShellCompDirectiveNoFileComp
	}
	cmd.RunE = func(c *cobra.Command, args []string) error {
		return a.eachNamed(c, "keys", args, func(ctx context.Context, cl *client.Client, id string) error { return cl.Keys.Revoke(ctx, id) })
	}
	return cmd
}

// eachNamed does something with everything named, of what only a server has, and
// prints the names with which it went well.
func (a *app) eachNamed(c *cobra.Command, what string, args []string, do func(context.Context, *client.Client, string) error) error {
	if err := a.withServer(c, what, func(context.Context, *client.Client) error { return nil }); err != nil {
		return err
	}
	return a.each(c, args, func(ctx context.Context, cl *client.Client, arg string) error {
		if arg == "" || arg == "." || arg == ".." {
			return dayfly.Errorf(dayfly.Invalid, "%q names nothing", arg)
		}
		err := do(ctx, cl, arg)
		if err == nil {
			fmt.Fprintln(a.stdout, arg)
		}
		return err
	})
}
