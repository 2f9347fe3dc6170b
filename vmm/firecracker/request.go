package firecracker

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/dayfly/dayfly/vmm"
)

// Names in a machine's directory, which is Firecracker's working directory. A
// saved state has those of the drives and of the vsock socket in it.
const (
	roomName    = "run" // of what Firecracker makes itself
	apiSocket   = roomName + "/api.sock"
	vsockSocket = roomName + "/vsock.sock"
)

// Names in the machine's directory that Firecracker does not use: it has the
// pipes as descriptors.
const (
	consolePipe = "console.pipe"
	logPipe     = "log.pipe"
	metricsPipe = "metrics.pipe"
)

func driveName(i int) string { return fmt.Sprintf("drive%d", i) }

// nicName is what Firecracker calls a network device; in no directory is it a name.
func nicName(i int) string { return fmt.Sprintf("nic%d", i) }

// Descriptors that Firecracker inherits, in this order, and opens by their
// number: what goes through them has no name and is on no disk.
const (
	stateFD  = 3 // where a state is saved to, and what it is loaded from
	refuseFD = 4 // takes not a byte: see Save
	spareFD  = 5 // takes all, and nobody wants it
	memoryFD = 6 // the machine's memory file, or the spare one again
	driveFD  = 7 // and on: the drives, only for their locks
)

func fdPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// guestCID is every guest's vsock address. Nobody routes by it: each has a
// socket of its own.
const guestCID = 3

// Bodies of requests, as the API's description has them (the file
// src/firecracker/swagger/firecracker.yaml of Firecracker).
type (
	machineConfig struct {
		VCPUs     int  `json:"vcpu_count"`
		MemoryMiB int  `json:"mem_size_mib"`
		SMT       bool `json:"smt"`
	}
	bootSource struct {
		Kernel string `json:"kernel_image_path"`
		Initrd string `json:"initrd_path"`
		Args   string `json:"boot_args"`
	}
	driveConfig struct {
		ID       string       `json:"drive_id"`
		Path     string       `json:"path_on_host"`
		Root     bool         `json:"is_root_device"`
		ReadOnly bool         `json:"is_read_only"`
		Cache    string       `json:"cache_type"`
		Limit    *rateLimiter `json:"rate_limiter,omitempty"`
	}
	driveUpdate struct {
		ID   string `json:"drive_id"`
		Path string `json:"path_on_host"`
	}
	driveLimit struct {
		ID    string      `json:"drive_id"`
		Limit rateLimiter `json:"rate_limiter"`
	}
	nicConfig struct {
		ID      string       `json:"iface_id"`
		TAP     string       `json:"host_dev_name"`
		MAC     string       `json:"guest_mac"`
		Receive *rateLimiter `json:"rx_rate_limiter,omitempty"`
		Send    *rateLimiter `json:"tx_rate_limiter,omitempty"`
	}
	nicLimit struct {
		ID      string      `json:"iface_id"`
		Receive rateLimiter `json:"rx_rate_limiter"`
		Send    rateLimiter `json:"tx_rate_limiter"`
	}
	entropyConfig struct{}
	vsockConfig   struct {
		CID  int    `json:"guest_cid"`
		Path string `json:"uds_path"`
	}
	balloonConfig struct {
		MiB     int  `json:"amount_mib"`
		Deflate bool `json:"deflate_on_oom"`
	}
	action struct {
		Type string `json:"action_type"`
	}
	vmState struct {
		State string `json:"state"`
	}
	snapshotCreate struct {
		Type   string `json:"snapshot_type"`
		State  string `json:"snapshot_path"`
		Memory string `json:"mem_file_path"`
	}
	snapshotLoad struct {
		State  string        `json:"snapshot_path"`
		Memory memoryBackend `json:"mem_backend"`
		Resume bool          `json:"resume_vm"`
		NICs   []nicOverride `json:"network_overrides,omitempty"`
	}
	nicOverride struct {
		ID  string `json:"iface_id"`
		TAP string `json:"host_dev_name"`
	}
	memoryBackend struct {
		Type string `json:"backend_type"`
		Path string `json:"backend_path"`
	}
)

// What the API answers, as far as it is looked at.
type (
	instanceInfo struct {
		State   string `json:"state"`
		Version string `json:"vmm_version"`
	}
	vmConfig struct {
		Drives []driveConfig `json:"drives"`
	}
)

// States of a machine, by the API's words.
const (
	stateRunning = "Running"
	statePaused  = "Paused"
	askPause     = "Paused"
	askResume    = "Resumed"
)

// beginning is what a fresh Firecracker is asked, in this order, so that the
// machine runs after the last.
func (d *Driver) beginning(c vmm.Config) []request {
	if len(c.State) > 0 {
		return restoring(c)
	}
	put := func(path string, body any) request { return request{http.MethodPut, path, body, false} }
	asked := []request{
		put("/machine-config", machineConfig{VCPUs: c.CPUs, MemoryMiB: c.MemoryMiB}),
		put("/boot-source", bootSource{c.Kernel, c.Initramfs, strings.Join(kernelParams(c), " ")}),
	}
	for i, drive := range c.Drives {
		// The guest finds them in this order. Its flushes reach the medium.
		asked = append(asked, put("/drives/"+driveName(i), driveConfig{
			ID: driveName(i), Path: driveName(i), ReadOnly: drive.ReadOnly, Cache: "Writeback", Limit: driveRates(drive.Limit).unlessNone(),
		}))
	}
	for i, n := range c.NICs {
		receive, send := nicRates(n.Limit)
		asked = append(asked, put("/network-interfaces/"+nicName(i), nicConfig{
			ID: nicName(i), TAP: n.TAP, MAC: n.MAC, Receive: receive.unlessNone(), Send: send.unlessNone(),
		}))
	}
	asked = append(asked,
		put("/vsock", vsockConfig{guestCID, vsockSocket}),
		put("/entropy", entropyConfig{}),
	)
	if d.options.Balloon {
		asked = append(asked, put("/balloon", balloonConfig{Deflate: true}))
	}
	return append(asked, request{http.MethodPut, "/actions", action{"InstanceStart"}, true})
}

// restoring is what one is asked that goes on from a saved state. That has the
// limits which the machine had as it was saved: before it runs, they are what they
// are to be now.
func restoring(c vmm.Config) []request {
	load := snapshotLoad{State: fdPath(stateFD), Memory: memoryBackend{"File", fdPath(memoryFD)}}
	for i, n := range c.NICs {
		load.NICs = append(load.NICs, nicOverride{nicName(i), n.TAP})
	}
	asked := []request{{http.MethodPut, "/snapshot/load", load, true}}
	for i, d := range c.Drives {
		asked = append(asked, limitDrive(i, d.Limit))
	}
	for i, n := range c.NICs {
		receive, send := nicRates(n.Limit)
		asked = append(asked, request{http.MethodPatch, "/network-interfaces/" + nicName(i), nicLimit{nicName(i), receive, send}, false})
	}
	return append(asked, request{http.MethodPatch, "/vm", vmState{askResume}, false})
}

// kernelParams ends with the caller's, so that they win. Firecracker adds those
// that tell of its devices.
func kernelParams(c vmm.Config) []string {
	return append([]string{
		// First, so that no boot message is written byte by byte to the console,
		// which is there for the words of a dying kernel.
		"quiet",
		"earlyprintk=serial,ttyS0,115200,keep",
		"8250.nr_uarts=0", // the console needs no driver, and probing for one takes time
		"panic=-1",        // reboot at once
		"reboot=k",        // by the keyboard controller, which is how a guest ends its Firecracker
		"dayfly.channel=vsock",
	}, c.Cmdline...)
}
