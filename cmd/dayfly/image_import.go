package main

import (
	"archive/tar"
	"context"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

func (a *app) imageImportCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import [PATH]",
		Short: "Import an image from a docker save or OCI archive",
		Long: `Import the images of a docker save archive, an OCI archive, or an OCI layout
directory. Without PATH, or with -, the archive is read from standard input.`,
		Example: `  docker save app | dayfly image import
  dayfly image import --name app ./oci-layout`,
		Args: atMostOne,
	}
	var o client.ImportOptions
	cmd.Flags().StringVar(&o.Name, "name", "", "`NAME` of the image (default: what the archive says)")
	cmd.Flags().StringVar(&o.Platform, "platform", "", "`OS/ARCH[/VARIANT]` (default: this host's)")
	quiet := cmd.Flags().BoolP("quiet", "q", false, "show no progress")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(c *cobra.Command, args []string) error {
		path := "-"
		if len(args) > 0 {
			path = args[0]
		}
		archive, err := a.openArchive(path)
		if err != nil {
			return err
		}
		defer archive.Close()
		return a.withClient(c, func(ctx context.Context, cl *client.Client) error {
			p := a.progress("import", *quiet)
			images, err := cl.Images.Import(ctx, archive, o, p.Report)
			p.Close()
			if err != nil {
				return err
			}
			return a.prepared(*asJSON, images...)
		})
	}
	return cmd
}

func atMostOne(c *cobra.Command, args []string) error { return noArgs(c, args[min(len(args), 1):]) }

// openArchive opens a file, standard input for -, or a directory as the
// archive of it.
func (a *app) openArchive(path string) (io.ReadCloser, error) {
	if path == "-" {
		if f, ok := file(a.stdin); ok && term.IsTerminal(int(f.Fd())) {
			return nil, dayfly.Errorf(dayfly.Invalid, "standard input is a terminal: name a file, or pipe an archive in")
		}
		return io.NopCloser(a.stdin), nil
	}
	st, err := os.Stat(path)
	if err != nil {
		return nil, dayfly.Errorf(dayfly.Invalid, "%w", err)
	}
	if !st.IsDir() {
		f, err := os.Open(path)
		if err != nil {
			return nil, dayfly.Errorf(dayfly.Invalid, "%w", err)
		}
		return f, nil
	}
	return archiveOf(path), nil
}

// archiveOf streams a directory as a tar archive.
func archiveOf(dir string) io.ReadCloser {
	r, w := io.Pipe()
	go func() {
		tw := tar.NewWriter(w)
		err := tw.AddFS(os.DirFS(dir))
		if err == nil {
			err = tw.Close()
		}
		_ = w.CloseWithError(err)
	}()
	return r
}
