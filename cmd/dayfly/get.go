package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

func (a *app) getCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "get WORKSPACE", Aliases: []string{"inspect"}, Short: "Show all there is to know about a workspace",
		Example: `  dayfly get mayfly
  dayfly get --timings mayfly
  dayfly get --format '{{.state}}' mayfly`,
		Args: exactlyOne("name a workspace"), ValidArgsFunction: a.completeWorkspaces,
	}
	timings := cmd.Flags().Bool("timings", false, "draw what its last start consisted of")
	out := outputFlags(cmd)
	cmd.RunE = func(c *cobra.Command, args []string) error {
		id, err := ref(args[0])
		if err != nil {
			return err
		}
		return a.withClient(c, func(ctx context.Context, cl *client.Client) error {
			ws, err := cl.Workspaces.Get(ctx, id)
			switch {
			case err != nil:
				return err
			case out.scripted():
				return out.print(a.stdout, ws)
			}
			return a.printWorkspace(ws, *timings)
		})
	}
	return cmd
}

func (a *app) printWorkspace(ws dayfly.Workspace, timings bool) error {
	if err := fields(a.stdout, workspaceFields(ws)); err != nil || !timings {
		return err
	}
	w := waterfall{}
	for _, st := range inOrder(ws.Timeline) {
		depth := 0
		if st.Within != "" {
			depth = 1
		}
		w.add(st.Name, st.At, st.Took, depth)
	}
	_, err := io.WriteString(a.stdout, "\n"+heading(ws)+"\n"+w.String())
	return err
}

// fields prints names and values, one pair a line, without those that are empty.
func fields(w io.Writer, all [][2]string) error {
	var rows [][]string
	for _, f := range all {
		if f[1] != "" {
			rows = append(rows, []string{f[0] + ":", f[1]})
		}
	}
	return table(w, rows...)
}

func workspaceFields(ws dayfly.Workspace) [][2]string {
	s := ws.Spec
	memory, disk := mebibytes(s.MemoryMiB), mebibytes(s.DiskMiB)
	start := string(ws.StartKind)
	if ws.StartNote != "" {
		start += " (" + ws.StartNote + ")"
	}
	all := [][2]string{
		{"id", string(ws.ID)}, {"name", ws.Name}, {"namespace", ws.Namespace}, {"state", stateOf(ws)},
		{"image", ws.Image.Name}, {"digest", ws.Image.Digest}, {"parent", ws.Parent}, {"kernel", ws.Kernel},
		{"accel", string(ws.Accel)}, {"start", start},
		{"cpus", (&processors{s.CPUs, s.CPULimit}).String()}, {"memory", memory.String()}, {"disk", disk.String()},
		{"user", s.User}, {"workdir", s.Workdir}, {"command", words(s.Command, s.ImageCommand)},
		{"created", moment(&ws.CreatedAt)}, {"used", moment(ws.UsedAt)}, {"expires", expiry(ws)},
		{"idle", idleRule(s.Idle)}, {"restart", restartRule(ws)}, {"ready check", words(s.Ready.Command, false)},
		{"exit", exitOfMain(ws.Exit)}, {"metadata", assigned(s.Metadata)}, {"env", strings.Join(slices.Sorted(maps.Keys(s.Env)), " ")},
	}
	if s.Keep {
		all = append(all, [2]string{"keep", "yes"})
	}
	if s.RemoveOnExit {
		all = append(all, [2]string{"remove on exit", "yes"})
	}
	return all
}

// words is a command line for people.
func words(line []string, ofImage bool) string {
	var out []string
	if ofImage {
		out = append(out, "(the image's own)")
	}
	for _, w := range line {
		if w == "" || strings.ContainsAny(w, " \t\n\"'$\\") {
			w = fmt.Sprintf("%q", w)
		}
		out = append(out, w)
	}
	return strings.Join(out, " ")
}

// moment is a time for people, in their zone.
func moment(t *time.Time) string {
	if t == nil || t.Unix() <= 0 {
		return ""
	}
	return t.Local().Format(time.DateTime)
}

func expiry(ws dayfly.Workspace) string {
	if ws.ExpiresAt == nil {
		return ""
	}
	what := ws.Spec.OnTimeout
	if what == "" {
		what = dayfly.DeleteIt
	}
	return moment(ws.ExpiresAt) + ", then " + string(what)
}

func idleRule(i dayfly.Idle) string {
	var rules []string
	if i.PauseAfter > 0 {
		rules = append(rules, fmt.Sprintf("pause after %s", time.Duration(i.PauseAfter)*time.Second))
	}
	if i.StopAfter > 0 {
		rules = append(rules, fmt.Sprintf("stop after %s", time.Duration(i.StopAfter)*time.Second))
	}
	return strings.Join(rules, ", ")
}

func restartRule(ws dayfly.Workspace) string {
	if ws.Spec.Restart.Policy == "" {
		return ""
	}
	f := restartFlag{ws.Spec.Restart}
	if ws.Restarts == 0 {
		return f.String()
	}
	return fmt.Sprintf("%s (%d in a row)", f.String(), ws.Restarts)
}

func exitOfMain(e *dayfly.Exit) string {
	if e == nil {
		return ""
	}
	return fmt.Sprintf("code %d at %s", e.Code, moment(&e.At))
}

// assigned is KEY=VALUE of a map, in order.
func assigned(m map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, k+"="+m[k])
	}
	return strings.Join(out, " ")
}
