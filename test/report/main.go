// Command report runs go test -json and tells a person what came of it: every
// package as it ends, the output of what failed, and at the end which tests
// were skipped and what this machine lacks for them. Its last line is
//
//	N passed, N failed, N skipped
//
// and its exit status is 1 if anything failed, was broken, or did not run. With
// -strict it is 1 also if a test was skipped for anything that test/needs does
// not allow.
//
//	go run ./test/report [-strict] -- go test -json ./...
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

func main() {
	strict := flag.Bool("strict", false, "fail if a test was skipped that need not be")
	flag.Parse()
	if flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "usage: report [-strict] -- go test -json PACKAGES...")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ok, err := run(ctx, flag.Args(), *strict)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

// run reports on the output of a command and says whether all is well.
func run(ctx context.Context, args []string, strict bool) (bool, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // go test passes it on and cleans up
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return false, err
	}
	if err := cmd.Start(); err != nil {
		return false, err
	}
	r := newReport(os.Stdout)
	readErr := r.read(out)
	waitErr := cmd.Wait()
	ok := r.summary(strict)
	if exit := (*exec.ExitError)(nil); errors.As(waitErr, &exit) && r.failed > 0 {
		waitErr = nil // the failures are its reason
	}
	return ok, errors.Join(readErr, waitErr, context.Cause(ctx))
}
