package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/store"
)

func (a *app) systemBackupCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "backup FILE", Short: "Copy the server's database to a new file, beside a running server",
		Long: `Copy the server's database as it is at one instant to a new file, on the machine
of the server and beside it if it runs. It holds all that the server remembers;
disks, memories, images and the master key are files of the state directory.`,
		Example: "  dayfly system backup /backup/dayfly-$(date +%F).db",
		Args:    exactlyOne("name the file to make"),
	}
	database := cmd.Flags().String("database", "", "`URL` of the database, as of dayfly serve (default: dayfly.db in the state directory)")
	config := cmd.Flags().String("config", "", "`FILE` that dayfly serve is configured with")
	cmd.RunE = func(c *cobra.Command, args []string) error {
		url, err := a.databaseURL(*database, *config)
		if err != nil {
			return err
		}
		to, err := filepath.Abs(args[0])
		if err != nil {
			return err
		}
		log, err := a.logger()
		if err != nil {
			return err
		}
		ctx, stop := interruptible(c.Context())
		defer stop()
		s, err := store.Open(ctx, store.Options{URL: url, Log: log})
		if err != nil {
			return cause(ctx, err)
		}
		if err = errors.Join(s.Backup(ctx, to), s.Close()); err != nil {
			return cause(ctx, err)
		}
		fmt.Fprintln(a.stdout, to)
		return nil
	}
	return cmd
}

// databaseURL is that of a database that is there: opening one makes it.
func (a *app) databaseURL(url, config string) (string, error) {
	dir, err := filepath.Abs(a.state)
	if err != nil {
		return "", err
	}
	var c serveConfig
	if config != "" {
		if c, err = readConfig(config); err != nil {
			return "", err
		}
	}
	url = cmp.Or(url, c.Database)
	if url == "" {
		url = "sqlite://" + filepath.Join(dir, "dayfly.db")
	}
	path, ok := strings.CutPrefix(url, "sqlite://")
	if !ok {
		return "", dayfly.Errorf(dayfly.Invalid, "the database is PostgreSQL: back it up with pg_dump")
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return "", dayfly.Errorf(dayfly.NotFound, "there is no database %s: name the server's with --state, --config or --database", path)
	} else if err != nil {
		return "", dayfly.Errorf(dayfly.Denied, "%w", err)
	}
	return url, nil
}
