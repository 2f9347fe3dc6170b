package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// uevents tells when the kernel adds or changes a device, so that nothing here
// has to poll for one.
type uevents struct{ file *os.File }

// kernelGroup is the netlink multicast group the kernel itself sends to.
// https://docs.kernel.org/core-api/kobject.html, lib/kobject_uevent.c
const kernelGroup = 1

func listenUevents() (*uevents, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("uevents: socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("uevents: bind: %w", err)
	}
	return &uevents{os.NewFile(uintptr(fd), "uevents")}, nil
}

// wait returns once found says true. It asks at once and then after every
// event, and gives up when ctx ends.
func (u *uevents) wait(ctx context.Context, what string, found func() bool) error {
	if found() {
		return nil
	}
	stop := context.AfterFunc(ctx, func() { _ = u.file.SetReadDeadline(time.Unix(1, 0)) })
	defer func() {
		stop()
		_ = u.file.SetReadDeadline(time.Time{})
	}()
	buf := make([]byte, 8<<10)
	for !found() {
		_, err := u.file.Read(buf)
		if ctx.Err() != nil {
			return fmt.Errorf("%s did not appear: %w", what, context.Cause(ctx))
		}
		// ENOBUFS means that events were lost: ask again.
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("uevents: %w", err)
		}
	}
	return nil
}
