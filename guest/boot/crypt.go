package boot

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly/guest/wire"
)

// The device-mapper interface: include/uapi/linux/dm-ioctl.h.
const (
	dmControl = "/dev/mapper/control"

	dmHeaderLen = 312 // struct dm_ioctl
	dmTargetLen = 40  // struct dm_target_spec
	dmBufLen    = 4 << 10

	dmDevCreate  = 3
	dmDevRemove  = 4
	dmDevSuspend = 6 // without the suspend flag: resume
	dmTableLoad  = 9
	dmMessage    = 14

	dmSuspend  = 1 << 1  // with dmDevSuspend: suspend
	dmSkipLock = 1 << 10 // without freezing the file system on it

	dmSecureData = 1 << 15 // the kernel wipes its copies of the request

	sectorSize = 512
)

// openCrypt maps the disk of a root behind AES-256-XTS with its 64-byte key and
// returns the plain device. The parameters are those package disk seeds with.
func openCrypt(name string, root *wire.Root) (string, error) {
	size := uint64(max(0, root.DiskSize))
	if size == 0 {
		var err error
		if size, err = blockSize(root.Disk); err != nil {
			return "", fmt.Errorf("crypt: size of %s: %w", root.Disk, err)
		}
	}
	params := make([]byte, 0, 512)
	defer func() { clear(params[:cap(params)]) }()
	params = append(params, "aes-xts-plain64 "...)
	params = hex.AppendEncode(params, root.DiskKey)
	params = append(params, " 0 "...)
	params = append(params, root.Disk...)
	// Without the work queues a request is ciphered in the context that issues
	// it: fewer switches, which is what counts on one or two virtual CPUs.
	params = append(params, " 0 5 allow_discards sector_size:4096 iv_large_sectors no_read_workqueue no_write_workqueue"...)

	ctl, err := unix.Open(dmControl, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("crypt: %s: %w", dmControl, err)
	}
	defer unix.Close(ctl)
	if _, err := dmCall(ctl, dmDevCreate, name, 0, nil); err != nil {
		return "", fmt.Errorf("crypt: create: %w", err)
	}
	if _, err := dmCall(ctl, dmTableLoad, name, 0, dmTarget(size/sectorSize, params)); err != nil {
		return "", fmt.Errorf("crypt: table: %w", errors.Join(err, closeCrypt(name)))
	}
	num, err := dmCall(ctl, dmDevSuspend, name, 0, nil)
	if err != nil {
		return "", fmt.Errorf("crypt: resume: %w", errors.Join(err, closeCrypt(name)))
	}
	return "/dev/dm-" + strconv.Itoa(int(unix.Minor(num))), nil
}

// closeCrypt removes a mapped device. One that is not there is fine.
func closeCrypt(name string) error {
	ctl, err := unix.Open(dmControl, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("crypt: %s: %w", dmControl, err)
	}
	defer unix.Close(ctl)
	if _, err := dmCall(ctl, dmDevRemove, name, 0, nil); err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("crypt: remove: %w", err)
	}
	return nil
}

// suspend holds every request for a mapped device from now on. What is mounted
// from it is the caller's to write out: freezing it here would mean thawing it
// later, at the cost of a write that a start would wait for.
func suspend(name string) error {
	ctl, err := unix.Open(dmControl, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("crypt: %s: %w", dmControl, err)
	}
	defer unix.Close(ctl)
	if _, err := dmCall(ctl, dmDevSuspend, name, dmSuspend|dmSkipLock, nil); err != nil {
		return fmt.Errorf("crypt: suspend: %w", err)
	}
	return nil
}

// rekey gives a suspended device another key and lets it go on.
func rekey(name string, key []byte) error {
	ctl, err := unix.Open(dmControl, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("crypt: %s: %w", dmControl, err)
	}
	defer unix.Close(ctl)
	const sector, text = 8, "key set " // struct dm_target_msg: the target's first sector, then words
	msg := make([]byte, sector, sector+len(text)+2*len(key)+1)
	msg = hex.AppendEncode(append(msg, text...), key)
	if _, err := dmCall(ctl, dmMessage, name, 0, append(msg, 0)); err != nil {
		return fmt.Errorf("crypt: key: %w", err)
	}
	if _, err := dmCall(ctl, dmDevSuspend, name, 0, nil); err != nil {
		return fmt.Errorf("crypt: resume: %w", err)
	}
	return nil
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
func dmCall(ctl int, nr uintptr, name string, flags uint32, payload []byte) (uint64, error) {
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
	le.PutUint32(buf[28:], dmSecureData|flags)
	copy(buf[48:48+127], name)
	copy(buf[dmHeaderLen:], payload)

	const iowr = 3 << 30
	req := iowr | dmHeaderLen<<16 | 0xfd<<8 | nr
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(ctl), req, uintptr(unsafe.Pointer(&buf[0])))
	if errno != 0 {
		return 0, errno
	}
	return le.Uint64(buf[40:]), nil
}

// blockSize is the size of a block device in bytes.
func blockSize(dev string) (n uint64, err error) {
	return n, onDevice(dev, func(fd int) error { return ioctl(fd, unix.BLKGETSIZE64, unsafe.Pointer(&n)) })
}

// ext4Size is how many blocks the ext4 on a device has, and how many bytes one
// has, by its superblock (Documentation/filesystems/ext4/super.rst).
func ext4Size(dev string) (blocks, block uint64, err error) {
	return blocks, block, onDevice(dev, func(fd int) error {
		const at, countLo, logBlock, magic, countHi = 1024, 0x4, 0x18, 0x38, 0x150
		var sb [1024]byte
		if n, err := unix.Pread(fd, sb[:], at); err != nil || n != len(sb) {
			return errors.Join(errors.New("it has no superblock"), err)
		}
		le, log := binary.LittleEndian, binary.LittleEndian.Uint32(sb[logBlock:])
		if le.Uint16(sb[magic:]) != 0xef53 || log > 6 {
			return errors.New("it is no ext4")
		}
		blocks = uint64(le.Uint32(sb[countHi:]))<<32 | uint64(le.Uint32(sb[countLo:]))
		block = 1024 << log
		return nil
	})
}

// forgetPages drops what the kernel has in memory of a block device, so that
// another content behind it is read anew.
func forgetPages(dev string) error {
	return onDevice(dev, func(fd int) error { return ioctl(fd, unix.BLKFLSBUF, nil) })
}

// fsType recognises the file systems a read-only root may have.
func fsType(dev string) (fs string, err error) {
	return fs, onDevice(dev, func(fd int) error {
		var sb [64]byte
		n, err := unix.Pread(fd, sb[:], 1024)
		switch {
		case err != nil:
		case n == len(sb) && bytes.Equal(sb[56:58], []byte{0x53, 0xef}):
			fs = "ext4"
		case n == len(sb) && bytes.Equal(sb[:4], []byte{0xe2, 0xe1, 0xf5, 0xe0}):
			fs = "erofs"
		default:
			err = errors.New("it holds no file system known here")
		}
		return err
	})
}

// onDevice opens a device for do. Without os.File, which would ask the kernel
// whether it can be polled.
func onDevice(dev string, do func(fd int) error) error {
	fd, err := unix.Open(dev, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		err = do(fd)
		unix.Close(fd)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", dev, err)
	}
	return nil
}

func ioctl(fd int, request uint, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}
