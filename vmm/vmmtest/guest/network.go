//go:build linux

package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/vmm/vmmtest/script"
)

// Listen takes a network device up and answers what comes to it. A restored
// guest goes on with that.
func (machine) Listen(mac string) error {
	if err := load(func(name string) bool { return strings.Contains(name, "failover") || name == netModule }); err != nil {
		return err
	}
	addr, err := net.ParseMAC(mac)
	if err != nil {
		return err
	}
	name, err := findDevice(addr)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := bindDevice(fd, name); err != nil {
		unix.Close(fd)
		return err
	}
	go script.Echo(connection(fd), addr, 0)
	return nil
}

// findDevice waits for the network device with an address.
func findDevice(mac net.HardwareAddr) (string, error) {
	const deadline = 5 * time.Second // device probing goes on after modules are loaded
	for began := time.Now(); time.Since(began) < deadline; time.Sleep(time.Millisecond) {
		found, _ := filepath.Glob("/sys/class/net/*/address")
		for _, f := range found {
			b, err := os.ReadFile(f)
			if is, parsed := net.ParseMAC(strings.TrimSpace(string(b))); err == nil && parsed == nil && bytes.Equal(is, mac) {
				return filepath.Base(filepath.Dir(f)), nil
			}
		}
	}
	return "", fmt.Errorf("no network device %s", mac)
}

// bindDevice takes a device up and has a packet socket hear the suite's frames.
func bindDevice(fd int, name string) error {
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, r); err != nil {
		return err
	}
	r.SetUint16(r.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r); err != nil {
		return fmt.Errorf("%s up: %w", name, err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, r); err != nil {
		return err
	}
	const bigEndian = script.EtherType>>8 | script.EtherType&0xff<<8
	return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian, Ifindex: int(r.Uint32())})
}
