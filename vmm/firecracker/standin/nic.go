package standin

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/vmm/vmmtest/script"
)

// nic is a network device, as requests have it.
type nic struct {
	ID      string `json:"id"`
	TAP     string `json:"tap"`
	MAC     string `json:"mac"`
	Receive limits `json:"receive"`
	Send    limits `json:"send"`
}

// head is the size of what lies in front of a frame, struct virtio_net_hdr_v1.
const head = 12

// openTAP does what Firecracker does (Tap::open_named): it makes a TAP device that
// is not there, if it may.
func openTAP(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("couldn't open /dev/net/tun: %w", err)
	}
	r, err := unix.NewIfreq(name)
	if err == nil {
		r.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, r)
	}
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, head)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("open tap device failed: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func (s *server) putNIC(c call) (any, error) {
	n := nic{ID: c.id, TAP: c.text("host_dev_name"), MAC: c.text("guest_mac")}
	n.Receive.merge(c.body["rx_rate_limiter"])
	n.Send.merge(c.body["tx_rate_limiter"])
	if strings.ContainsFunc(n.ID, func(r rune) bool { return r != '_' && notIDRune(r) || r == '-' }) {
		return nil, fmt.Errorf("invalid interface id %q", n.ID)
	}
	if mac, err := net.ParseMAC(n.MAC); err != nil || len(mac) != 6 || mac[0]&1 != 0 {
		return nil, fmt.Errorf("invalid MAC address %q", n.MAC) // Firecracker does without one, and we do not
	}
	for _, other := range s.is.NICs {
		if other.ID == n.ID || other.MAC == n.MAC {
			return nil, fmt.Errorf("the interface %s or its MAC address is in use", n.ID)
		}
	}
	if err := s.take(n); err != nil {
		return nil, refuse("cannot create network device: %v", err)
	}
	s.is.NICs = append(s.is.NICs, n)
	return nil, nil
}

// take opens the TAP of a device, for good.
func (s *server) take(n nic) error {
	f, err := openTAP(n.TAP)
	if err != nil {
		return err
	}
	if s.taps == nil {
		s.taps = map[string]*os.File{}
	}
	s.taps[n.ID] = f
	return nil
}

func (s *server) patchNIC(c call) (any, error) {
	for i := range s.is.NICs {
		n := &s.is.NICs[i]
		if n.ID != c.id {
			continue
		}
		n.Receive.merge(c.body["rx_rate_limiter"])
		n.Send.merge(c.body["tx_rate_limiter"])
		s.guest.nics[i].receive.set(n.Receive)
		s.guest.nics[i].send.set(n.Send)
		return nil, nil
	}
	return nil, refuse("invalid interface id: %s", c.id)
}

// override gives the devices of a saved state other TAPs, as the request says, and
// opens them. A state must not need one of another machine's.
func (s *server) override(c call) error {
	named := map[string]string{}
	all, _ := c.body["network_overrides"].([]any)
	for _, one := range all {
		o, _ := one.(map[string]any)
		id, _ := o["iface_id"].(string)
		named[id], _ = o["host_dev_name"].(string)
	}
	for i := range s.is.NICs {
		n := &s.is.NICs[i]
		to, ok := named[n.ID]
		if !ok {
			record(s.dir, "a saved state's TAP device is taken as it was: "+n.ID)
		}
		delete(named, n.ID)
		n.TAP = to
		if err := s.take(*n); err != nil {
			return err
		}
	}
	if len(named) > 0 {
		return errors.New("unknown network device")
	}
	return nil
}

// wire is a network device seen by the guest. It stands still with it.
type wire struct {
	tap           *os.File
	gate          *gate
	receive, send *pace
}

func (s *server) wires(g *gate) (all []wire) {
	for _, n := range s.is.NICs {
		all = append(all, wire{s.taps[n.ID], g, newPace(n.Receive), newPace(n.Send)})
	}
	return all
}

func (w wire) Read(b []byte) (int, error) {
	n, err := w.tap.Read(b)
	w.gate.pass()
	w.receive.Pass(n)
	return n, err
}

func (w wire) Write(b []byte) (int, error) {
	w.send.Pass(len(b))
	w.gate.pass()
	return w.tap.Write(b)
}

// listening is where the RAM says which network devices are listened on.
func (g *guest) listening() []byte {
	last := g.ram[len(g.ram)-1]
	return last[len(last)-2*keptSize : len(last)-keptSize]
}

// Listen has a network device answer.
func (g *guest) Listen(mac string) error {
	addr, err := net.ParseMAC(mac)
	if err != nil {
		return err
	}
	for i, n := range g.server.is.NICs {
		if n.MAC == mac {
			g.listening()[i] = 1
			go script.Echo(g.nics[i], addr, head)
			return nil
		}
	}
	return errors.New("no such network device")
}

// listenAgain is what a restored guest's program does.
func (g *guest) listenAgain() error {
	for i, n := range g.server.is.NICs {
		if g.listening()[i] == 0 {
			continue
		}
		if err := g.Listen(n.MAC); err != nil {
			return err
		}
	}
	return nil
}
