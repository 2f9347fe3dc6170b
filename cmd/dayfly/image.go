package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

func (a *app) imageCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "image", Aliases: []string{"images"}, Short: "Manage images", Args: noArgs}
	cmd.AddCommand(
		a.imagePullCommand(), a.imageImportCommand(), a.imageBuildCommand(),
		a.imageLsCommand(), a.imageInspectCommand(), a.imageRmCommand(),
	)
	return cmd
}

// prepared prints an image that was pulled, imported or built.
func (a *app) prepared(asJSON bool, images ...dayfly.Image) error {
	if asJSON {
		return printJSON(a.stdout, images)
	}
	var rows [][]string
	for _, im := range images {
		rows = append(rows, []string{im.Name, im.Digest, humanBytes(im.Size)})
	}
	return table(a.stdout, rows...)
}

// completeImages offers names of images.
func (a *app) completeImages(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	var names []string
	_ = a.withClient(c, func(ctx context.Context, cl *client.Client) error {
		list, err := cl.Images.List(ctx)
		for _, im := range list {
			names = append(names, im.Name)
		}
		return err
	})
	return names, cobra.ShellCompDirectiveNoFileComp
}
