package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/host"
)

// checks is what a node has to try to know; what can be read is in package host.
var checks = []struct {
	subject, name string
	do            func(*Node, context.Context) dayfly.Check
}{
	{machines, "vmm", (*Node).checkVMM},
	{machines, "kernel", (*Node).checkKernel},
	{machines, "kvm", (*Node).checkKVM},
	{host.Rights, "jail", (*Node).checkJail},
	{host.Limits, "cgroups", (*Node).checkLimits},
	{host.Storage, "reflink", (*Node).checkReflink},
}

// machines is the subject of what runs them.
const machines = "machines"

// order is that of the subjects.
var order = []string{machines, host.Processors, host.Memory, host.Starts, host.Limits, host.Rights, host.Storage}

// Checks says line by line what this host can do and what to do about each
// lack. KVM is proved by running a guest, which may take seconds the first time.
func (n *Node) Checks(ctx context.Context) []dayfly.Check {
	list := make([]dayfly.Check, 0, len(checks))
	for _, c := range checks {
		line := c.do(n, ctx)
		line.Subject, line.Name = c.subject, c.name
		list = append(list, line)
	}
	list = append(list, host.Host{Dir: n.Dir}.Checks()...)
	slices.SortStableFunc(list, func(a, b dayfly.Check) int {
		return cmp.Compare(slices.Index(order, a.Subject), slices.Index(order, b.Subject))
	})
	return list
}

func good(format string, args ...any) dayfly.Check {
	return dayfly.Check{Status: dayfly.Good, Detail: fmt.Sprintf(format, args...)}
}

func lacking(detail, remedy string) dayfly.Check {
	return dayfly.Check{Status: dayfly.Lacking, Detail: detail, Remedy: remedy}
}

func broken(err error) dayfly.Check {
	var e *dayfly.Error
	if errors.As(err, &e) {
		what, remedy := e.Msg, ""
		if i := strings.LastIndex(e.Msg, ": "); i >= 0 { // what to do comes last
			what, remedy = e.Msg[:i], e.Msg[i+2:]
		}
		return dayfly.Check{Status: dayfly.Broken, Detail: what, Remedy: remedy}
	}
	return dayfly.Check{Status: dayfly.Broken, Detail: err.Error()}
}

// checkVMM names the VMMs that new machines may be of.
func (n *Node) checkVMM(ctx context.Context) dayfly.Check {
	v, err := n.Driver.Version(ctx)
	if err != nil {
		return broken(err)
	}
	said := n.Driver.Name() + " " + v
	for _, d := range n.drivers()[1:] {
		if !n.Fallback {
			break
		}
		v, err := d.Version(ctx)
		if err != nil {
			return lacking(said+" alone: "+firstLine(err), "dayfly setup, for what that cannot run")
		}
		said += ", or else " + d.Name() + " " + v
	}
	return good("%s", said)
}

func (n *Node) checkKernel(ctx context.Context) dayfly.Check {
	boot, err := n.Kernels.Boot(ctx, "")
	if err != nil {
		return broken(err)
	}
	if boot.Kernel.Flavour != "tuned" {
		return lacking(fmt.Sprintf("%s, a distribution's: it boots, but slower than a tuned one", boot.Kernel.Release), "dayfly kernel build, once (some minutes)")
	}
	if boot.Older {
		return lacking(boot.Kernel.Release+", tuned as another release of dayfly does", "dayfly kernel build, once (some minutes)")
	}
	return good("%s, %s", boot.Kernel.Release, boot.Kernel.Flavour)
}

func (n *Node) checkKVM(ctx context.Context) dayfly.Check {
	boot, err := n.Kernels.Boot(ctx, "")
	if err != nil {
		return dayfly.Check{Status: dayfly.Lacking, Detail: "not tried, as there is no kernel to run", Remedy: "see kernel"}
	}
	reason, err := n.kvmReason(ctx, n.Driver, boot)
	switch {
	case err != nil:
		return lacking("not tried: "+firstLine(err), "see vmm")
	case reason != "":
		return lacking("no guest runs on it: "+reason+"; software emulation is used", "a host with hardware virtualisation, or nested virtualisation switched on")
	}
	return good("a guest ran on it")
}

func (n *Node) checkReflink(context.Context) dayfly.Check {
	err := tryReflink(n.Dir)
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOTTY):
		return lacking("the file system of the state directory shares no blocks between files", "put the state directory on XFS or Btrfs to make copies of disks free")
	case err != nil:
		return broken(err)
	}
	return good("the file system of the state directory can share blocks between files")
}

// tryReflink clones one small file to another in a directory of its own.
func tryReflink(below string) (err error) {
	dir, err := os.MkdirTemp(below, ".reflink-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	src, dst := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	if err := os.WriteFile(src, make([]byte, os.Getpagesize()), 0o600); err != nil {
		return err
	}
	a, err := os.Open(src)
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := os.Create(dst)
	if err != nil {
		return err
	}
	defer b.Close()
	return unix.IoctlFileClone(int(b.Fd()), int(a.Fd()))
}
