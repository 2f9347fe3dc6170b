package host

import "github.com/dayfly/dayfly"

// vsock is for those who look for it: no driver uses the host's vhost-vsock.
// QEMU's machines have a virtio serial port, and Firecracker has vsock on a
// unix socket of its own.
func (h Host) vsock() dayfly.Check {
	if h.exists("dev/vhost-vsock") {
		return good("/dev/vhost-vsock is there; no machine uses it")
	}
	return good("no /dev/vhost-vsock, and none is needed")
}
