package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly"
)

// timingsFlag adds --timings to a command that starts something.
func timingsFlag(cmd *cobra.Command) *bool {
	return cmd.Flags().Bool("timings", false, "print where the time went to stderr")
}

// timed starts a workspace and, if asked to, draws on stderr how that went.
func (a *app) timed(draw bool, start func() (dayfly.Workspace, error)) (dayfly.Workspace, error) {
	sent := time.Since(began)
	ws, err := start()
	if err == nil && draw {
		_, _ = io.WriteString(a.stderr, startChart(sent, ws))
	}
	return ws, err
}

// startChart draws a start that was asked for at a time since the program began
// and has just been answered.
func startChart(sent time.Duration, ws dayfly.Workspace) string {
	w := waterfall{}
	w.addStart(sent, ws.Timeline)
	return heading(ws) + "\n" + w.String() + fmt.Sprintf("running after %.0f ms\n", ms(time.Since(began)))
}

// heading says what kind of start it was, and why it was not a faster one.
func heading(ws dayfly.Workspace) string {
	s := fmt.Sprintf("%s start of %s (%s)", ws.StartKind, ws.ID, ws.Accel)
	if ws.StartNote != "" {
		s += ": " + oneLine(ws.StartNote)
	}
	return s
}

// addStart adds what this process did before its request, and the server's
// stages, on one clock.
func (w *waterfall) addStart(sent time.Duration, t dayfly.Timeline) {
	w.add("client", 0, ms(sent), 0)
	for _, st := range inOrder(t) {
		depth := 0
		if st.Within != "" {
			depth = 1
		}
		w.add(st.Name, ms(sent)+st.At, st.Took, depth)
	}
}
