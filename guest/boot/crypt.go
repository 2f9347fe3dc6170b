package boot

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The device-mapper interface: include/uapi/linux/dm-ioctl.h.
const (
	dmControl = "/dev/mapper/control"

	dmHeaderLen = 312 // struct dm_ioctl
	dmTargetLen = 40  // struct dm_target_spec
	dmBufLen    = 4 << 10

	dmDevCreate  = 3
	dmDevSuspend = 6 // without the suspend flag: resume
	dmTableLoad  = 9

	dmSecureData = 1 << 15 // the kernel wipes its copies of the request

	sectorSize = 512
)

// openCrypt maps the block device behind AES-256-XTS with the 64-byte key and
// returns the plain device. The parameters are those package disk seeds with.
func openCrypt(name, dev string, key []byte) (string, error) {
	size, err := blockSize(dev)
	if err != nil {
		return "", fmt.Errorf("crypt: size of %s: %w", dev, err)
	}
	ctl, err := os.OpenFile(dmControl, os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("crypt: %w", err)
	}
	defer ctl.Close()

	params := make([]byte, 0, 512)
	defer func() { clear(params[:cap(params)]) }()
	params = append(params, "aes-xts-plain64 "...)
	params = hex.AppendEncode(params, key)
	// Without the work queues a request is ciphered in the context that issues
	// it: fewer switches, which is what counts on one or two virtual CPUs.
	params = fmt.Appendf(params, " 0 %s 0 5 allow_discards sector_size:4096 iv_large_sectors no_read_workqueue no_write_workqueue", dev)

	if _, err := dmCall(ctl, dmDevCreate, name, nil); err != nil {
		return "", fmt.Errorf("crypt: create: %w", err)
	}
	if _, err := dmCall(ctl, dmTableLoad, name, dmTarget(size/sectorSize, params)); err != nil {
		return "", fmt.Errorf("crypt: table: %w", err)
	}
	num, err := dmCall(ctl, dmDevSuspend, name, nil)
	if err != nil {
		return "", fmt.Errorf("crypt: resume: %w", err)
	}
	return fmt.Sprintf("/dev/dm-%d", unix.Minor(num)), nil
}

// dmTarget is a table of one crypt target over sectors sectors.
func dmTarget(sectors uint64, params []byte) []byte {
	b := make([]byte, dmTargetLen, dmTargetLen+len(params)+1)
	binary.NativeEndian.PutUint64(b[8:], sectors)
	copy(b[24:], "crypt")
	b = append(b, params...)
	return append(b, 0)
}

// dmCall makes one request and returns the device number in the answer. The
// payload and the buffer are cleared, as they may hold a key.
func dmCall(ctl *os.File, nr uintptr, name string, payload []byte) (uint64, error) {
	buf := make([]byte, dmBufLen)
	defer clear(buf)
	defer clear(payload)
	if dmHeaderLen+len(payload) > dmBufLen {
		return 0, unix.E2BIG
	}
	le := binary.NativeEndian
	le.PutUint32(buf[0:], 4) // interface version 4.0.0
	le.PutUint32(buf[12:], dmBufLen)
	le.PutUint32(buf[16:], dmHeaderLen)
	if payload != nil {
		le.PutUint32(buf[20:], 1) // one target
	}
	le.PutUint32(buf[28:], dmSecureData)
	copy(buf[48:48+127], name)
	copy(buf[dmHeaderLen:], payload)

	const iowr = 3 << 30
	req := iowr | dmHeaderLen<<16 | 0xfd<<8 | nr
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, ctl.Fd(), req, uintptr(unsafe.Pointer(&buf[0])))
	if errno != 0 {
		return 0, errno
	}
	return le.Uint64(buf[40:]), nil
}

// blockSize is the size of a block device in bytes.
func blockSize(dev string) (uint64, error) {
	f, err := os.Open(dev)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var n uint64
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKGETSIZE64, uintptr(unsafe.Pointer(&n)))
	if errno != 0 {
		return 0, errno
	}
	return n, nil
}

// fsType recognises the file systems a read-only root may have.
func fsType(dev string) (string, error) {
	f, err := os.Open(dev)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var sb [64]byte
	if _, err := f.ReadAt(sb[:], 1024); err != nil {
		return "", err
	}
	switch {
	case bytes.Equal(sb[56:58], []byte{0x53, 0xef}):
		return "ext4", nil
	case bytes.Equal(sb[:4], []byte{0xe2, 0xe1, 0xf5, 0xe0}):
		return "erofs", nil
	}
	return "", fmt.Errorf("%s holds no file system known here", dev)
}
