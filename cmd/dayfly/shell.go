package main

import (
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/dayfly/dayfly"
)

// userShell becomes the shell that the passwd file gives the user, if that is
// one to type at, else sh. It needs no other program but id.
const userShell = `me=$(id -un 2>/dev/null) found=
while IFS=: read -r name _ _ _ _ _ shell; do
	[ "$name" = "$me" ] && found=$shell && break
done </etc/passwd 2>/dev/null
case $found in ''|*/nologin|*/false) found=sh ;; esac
command -v "$found" >/dev/null 2>&1 || found=sh
export SHELL="$found"
exec "$found"`

func (a *app) shellCommand() *cobra.Command {
	f := execFlags{interactive: true, tty: true}
	cmd := &cobra.Command{
		Use: "shell WORKSPACE", Short: "Open a shell in a workspace, on this terminal",
		Long: `Open a shell in a workspace, on this terminal: the user's own, or else sh. It is
dayfly exec -it, with its exit codes.`,
		Example: `  dayfly shell mayfly
  dayfly shell -u root mayfly`,
		Annotations: forCommands,
		Args:        exactlyOne("name a workspace"), ValidArgsFunction: a.completeWorkspaces,
	}
	cmd.RunE = func(c *cobra.Command, args []string) error {
		if in, ok := file(a.stdin); !ok || !term.IsTerminal(int(in.Fd())) {
			return dayfly.Errorf(dayfly.Invalid, "a shell wants a terminal as standard input: dayfly exec -i %s sh takes a pipe", oneLine(args[0]))
		}
		return a.execIn(c.Context(), &f, []string{args[0], "sh", "-c", userShell})
	}
	fl := cmd.Flags()
	fl.StringArrayVarP(&f.env, "env", "e", nil, "set `NAME=VALUE`; NAME alone copies the variable of the caller")
	fl.StringVarP(&f.workdir, "workdir", "w", "", "`DIR` to start in (default: the workspace's)")
	fl.StringVarP(&f.user, "user", "u", "", "`USER` whose shell it is (default: the workspace's)")
	return cmd
}
