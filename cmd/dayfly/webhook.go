package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

func (a *app) webhookCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "webhook", Aliases: []string{"webhooks"}, Short: "Have events sent to URLs", Args: noArgs,
		Long: `Have events sent to URLs. Each is signed with the webhook's secret, and sent again
until it is taken, or for long enough.`,
	}
	cmd.AddCommand(a.webhookCreateCommand(), a.webhookLsCommand(), a.webhookRmCommand(), a.webhookDeliveriesCommand())
	return cmd
}

func (a *app) webhookCreateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "create URL", Short: "Have events sent to a URL; prints the secret that signs them, once", Args: exactlyOne("name the URL"),
		Example: "  dayfly webhook create https://ci.example/hook --type workspace.failed,workspace.exited",
	}
	types := cmd.Flags().StringSlice("type", nil, "only events of `TYPE`; more than one: any of them")
	completeWords(cmd, "type", dayfly.EventTypes()...)
	out := outputFlags(cmd)
	cmd.RunE = func(c *cobra.Command, args []string) error {
		w := dayfly.Webhook{URL: args[0]}
		for _, t := range *types {
			w.Types = append(w.Types, dayfly.EventType(t))
		}
		return a.withServer(c, "webhooks", func(ctx context.Context, cl *client.Client) error {
			made, err := cl.Webhooks.Create(ctx, w)
			switch {
			case err != nil:
				return err
			case out.scripted():
				return out.print(a.stdout, made)
			}
			return fields(a.stdout, [][2]string{{"id", made.ID}, {"secret", made.Secret}})
		})
	}
	return cmd
}

func (a *app) webhookLsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List webhooks", Args: noArgs, Example: "  dayfly webhook ls",
	}
	out := outputFlags(cmd)
	cmd.RunE = func(c *cobra.Command, _ []string) error {
		return a.withServer(c, "webhooks", func(ctx context.Context, cl *client.Client) error {
			list, err := cl.Webhooks.List(ctx)
			switch {
			case err != nil:
				return err
			case out.scripted():
				return printList(a, out, list)
			}
			rows := [][]string{{"ID", "NAMESPACE", "URL", "TYPES", "STATE", "AGE"}}
			for _, w := range list {
				state := "active"
				if !w.Active {
					state = "inactive"
				}
				rows = append(rows, []string{w.ID, orElse(w.Namespace, "(all)"), w.URL, orElse(typeList(w.Types), "all"), state, ago(w.CreatedAt)})
			}
			return table(a.stdout, rows...)
		})
	}
	return cmd
}

func typeList(types []dayfly.EventType) string {
	var names []string
	for _, t := range types {
		names = append(names, string(t))
	}
	return strings.Join(names, ",")
}

func (a *app) webhookRmCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rm WEBHOOK...", Short: "Delete webhooks, by their ids; what is on its way to them is given up",
		Example: "  dayfly webhook rm $(dayfly webhook ls --format '{{.id}}')",
		Args:    atLeast(1, "name the id of a webhook (see: dayfly webhook ls)"), ValidArgsFunction: a.completeWebhooks,
		RunE: func(c *cobra.Command, args []string) error {
			return a.eachNamed(c, "webhooks", args, func(ctx context.Context, cl *client.Client, id string) error { return cl.Webhooks.Delete(ctx, id) })
		},
	}
}

func (a *app) completeWebhooks(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	var ids []string
	_ = a.withClient(c, func(ctx context.Context, cl *client.Client) error {
		list, err := cl.Webhooks.List(ctx)
		for _, w := range list {
			ids = append(ids, cobra.CompletionWithDesc(w.ID, w.URL))
		}
		return err
	})
	return ids, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) webhookDeliveriesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "deliveries WEBHOOK", Short: "Show what was sent to a webhook, newest first, and how that went",
		Example: "  dayfly webhook deliveries $ID",
		Args:    exactlyOne("name the id of a webhook (see: dayfly webhook ls)"), ValidArgsFunction: a.completeWebhooks,
	}
	out := outputFlags(cmd)
	cmd.RunE = func(c *cobra.Command, args []string) error {
		return a.withServer(c, "webhooks", func(ctx context.Context, cl *client.Client) error {
			list, err := cl.Webhooks.Deliveries(ctx, args[0])
			switch {
			case err != nil:
				return err
			case out.scripted():
				return printList(a, out, list)
			}
			rows := [][]string{{"SEQ", "TYPE", "WORKSPACE", "ATTEMPTS", "STATUS", "SENT", "STATE"}}
			for _, d := range list {
				status := d.Error
				if d.Status != 0 {
					status = strings.TrimSpace(strconv.Itoa(d.Status) + " " + d.Error)
				}
				rows = append(rows, []string{
					fmt.Sprint(d.Event.Seq), string(d.Event.Type), string(d.Event.Workspace), fmt.Sprint(d.Attempts), orElse(status, "-"), orElse(moment(d.SentAt), "-"), progressOf(d),
				})
			}
			return table(a.stdout, rows...)
		})
	}
	return cmd
}

// progressOf says how far a delivery has come.
func progressOf(d dayfly.Delivery) string {
	switch {
	case d.DoneAt != nil:
		return "delivered"
	case d.NextAt != nil:
		return "next at " + moment(d.NextAt)
	}
	return "given up"
}
