package fake

import (
	"io"
	"os"

	"github.com/dayfly/dayfly/vmm"
)

// openTAPs takes the TAPs of a machine, all of them or none.
func openTAPs(nics []vmm.NIC) (taps []*os.File, err error) {
	for _, n := range nics {
		f, err := vmm.OpenTAP(n.TAP)
		if err != nil {
			closeTAPs(taps)
			return nil, err
		}
		taps = append(taps, f)
	}
	return taps, nil
}

func closeTAPs(taps []*os.File) {
	for _, f := range taps {
		_ = f.Close()
	}
}

// nics are the machine's network devices.
func (v *vm) nics() (all []io.ReadWriter) {
	for _, f := range v.taps {
		all = append(all, nic{f, v.port})
	}
	return all
}

// nic is one that stands still with its guest.
type nic struct {
	tap *os.File
	p   *port
}

func (n nic) Read(b []byte) (int, error) {
	size, err := n.tap.Read(b)
	n.p.wait()
	return size, err
}

func (n nic) Write(b []byte) (int, error) {
	n.p.wait()
	return n.tap.Write(b)
}
