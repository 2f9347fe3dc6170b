package main

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
)

// Exit codes. Those of run and exec are as docker, timeout(1) and shells have
// them; docs/cli.md has the table.
const (
	exitFailed    = 1
	exitUsage     = 2
	exitTimeout   = 124
	exitOwn       = 125 // of run and exec: the fault is not the command's
	exitSignalled = 128 // and the number of the signal
)

// exitError ends the program with a code, and a message if err is not nil.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// usageError is a command line that cannot be understood.
type usageError struct {
	command string
	err     error
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func wrongUsage(c *cobra.Command, err error) error { return &usageError{c.CommandPath(), err} }

// interrupted is the cause of a context that a signal ended.
type interrupted struct{ signal syscall.Signal }

func (e interrupted) Error() string { return "interrupted by " + unix.SignalName(e.signal) }

// interruptible returns a context that SIGINT, SIGTERM and SIGHUP end. A second
// one then ends the process, as it would have without us.
func interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	ch := notify(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		select {
		case s := <-ch:
			signal.Stop(ch)
			cancel(interrupted{s.(syscall.Signal)})
		case <-ctx.Done():
			signal.Stop(ch)
		}
	}()
	return ctx, func() { cancel(nil) }
}

// cause prefers the reason for which ctx ended to the error it led to.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// forCommands marks run and exec, whose own exit codes must not look like
// those of the commands they run.
var forCommands = map[string]string{"exit": "command"}

// exit tells the user about err and returns the program's exit code.
func (a *app) exit(cmd *cobra.Command, err error) int {
	if err == nil {
		return 0
	}
	a.explain(err)
	return codeOf(cmd, err)
}

// codeOf returns the exit code for err. cmd is what the error is of.
func codeOf(cmd *cobra.Command, err error) int {
	var coded *exitError
	var usage *usageError
	var sig interrupted
	switch {
	case errors.As(err, &coded):
		return coded.code
	case errors.As(err, &sig):
		return exitSignalled + int(sig.signal)
	case cmd != nil && cmd.Annotations["exit"] == "command":
		return exitOwn
	case errors.As(err, &usage):
		return exitUsage
	}
	return exitFailed
}

// explain prints an error and, where there is more to say, what to do. A bare
// exit code is not worth a word.
func (a *app) explain(err error) {
	for _, err := range parts(err) {
		var coded *exitError
		if errors.As(err, &coded) && coded.err == nil {
			continue
		}
		fmt.Fprintf(a.stderr, "dayfly: %s\n", describe(err))
		if hint := a.hint(err); hint != "" {
			fmt.Fprintf(a.stderr, "hint: %s\n", hint)
		}
	}
}

// parts takes apart what errors.Join put together.
func parts(err error) []error {
	if _, ours := err.(*dayfly.Error); ours { //nolint:errorlint // this one itself: its causes are not for the user
		return []error{err}
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var out []error
	for _, err := range joined.Unwrap() {
		if err != nil {
			out = append(out, parts(err)...)
		}
	}
	return out
}

// describe words an error for people: its stage and message, without the
// causes that are for a log.
func describe(err error) string {
	var e *dayfly.Error
	if !errors.As(err, &e) {
		return err.Error()
	}
	if e.Stage == "" || strings.HasPrefix(e.Msg, e.Stage+":") {
		return e.Msg
	}
	return e.Stage + ": " + e.Msg
}

func (a *app) hint(err error) string {
	var e *dayfly.Error
	var usage *usageError
	switch {
	case errors.As(err, &usage):
		return usage.command + " --help"
	case !errors.As(err, &e):
		return ""
	case e.Kind == dayfly.Unavailable && strings.HasPrefix(e.Msg, "server: "):
		return "is it running? dayfly serve starts one; " + a.unless()
	case e.RetryAfter > 0:
		return fmt.Sprintf("the same may work in %s", e.RetryAfter)
	case e.Kind == dayfly.Denied && a.asked && a.at.key == "" && !strings.HasPrefix(a.at.address, "unix://"):
		return "no key was sent: dayfly login, DAYFLY_API_KEY or --key-file"
	case e.Kind == dayfly.NotFound && strings.HasPrefix(e.Msg, "there is no workspace"):
		return "dayfly ls shows what there is"
	case e.Kind == dayfly.Exhausted && a.asked:
		return "dayfly quota shows the limits, and what is used of them"
	case e.Kind == dayfly.Unavailable, e.Kind == dayfly.Internal:
		return "dayfly doctor says what this host can do and what it lacks"
	}
	return ""
}

// unless says how to do without the server that does not answer.
func (a *app) unless() string {
	if a.host == "" && a.getenv("DAYFLY_SERVER") == "" && a.getenv("DAYFLY_HOST") == "" {
		return "dayfly logout forgets it, and --host none does without one"
	}
	return "without --host, DAYFLY_SERVER and DAYFLY_HOST none is needed"
}
