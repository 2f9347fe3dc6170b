package script

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
)

// EtherType marks the suite's frames among others: IEEE 802 has it for experiments.
const EtherType = 0x88b5

// Answer begins what comes back of a frame's text.
const Answer = "heard "

const (
	macSize    = 6
	headerSize = 2*macSize + 2
	maxFrame   = 1 << 16
)

// Frame is an Ethernet frame of the suite's.
func Frame(to, from net.HardwareAddr, text string) []byte {
	f := append(append([]byte(nil), to...), from...)
	f = binary.BigEndian.AppendUint16(f, EtherType)
	return append(f, text...)
}

// ParseFrame reads a frame of the suite's; ok is false for any other.
func ParseFrame(f []byte) (to, from net.HardwareAddr, text string, ok bool) {
	if len(f) < headerSize || binary.BigEndian.Uint16(f[2*macSize:]) != EtherType {
		return nil, nil, "", false
	}
	body, _, _ := bytes.Cut(f[headerSize:], []byte{0}) // short frames are padded
	return net.HardwareAddr(f[:macSize]), net.HardwareAddr(f[macSize : 2*macSize]), string(body), true
}

// Echo sends each frame of the suite's to its sender again, if it was sent to mac,
// until reading fails. Each Read of nic is one frame, behind head bytes that are
// the device's, and so is each Write.
func Echo(nic io.ReadWriter, mac net.HardwareAddr, head int) {
	b := make([]byte, maxFrame)
	for {
		n, err := nic.Read(b)
		if err != nil {
			return
		}
		to, from, text, ok := ParseFrame(b[min(head, n):n])
		if !ok || !bytes.Equal(to, mac) {
			continue
		}
		// What is lost is asked for again.
		_, _ = nic.Write(append(make([]byte, head), Frame(from, mac, Answer+text)...))
	}
}
