// Package script is the conversation between the conformance suite and the
// guest of its own: one line asks, one line answers, over the machine's
// channel.
//
// The same Serve runs as pid 1 in a virtual machine (package guest) and inside
// a fake driver, so that both are held to the same promises. What differs, the
// ways to end a guest and to reach its drives, is a Guest.
package script

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// ErrEnd is what Reboot and Panic of a Guest return where they return at all:
// the guest has ended, and Serve with it.
var ErrEnd = errors.New("the guest has ended")

// Guest is what the conversation acts on.
type Guest interface {
	Drive(i int) (Drive, error)     // drive i, counted from 0
	Console(line string) error      // writes a line to the guest's console
	CPUs() int                      // how many run
	Cmdline() string                // of the guest's kernel
	Uptime() (time.Duration, error) // by the guest's own clock
	Keep(text string) error         // puts a text into the guest's memory
	Kept() (string, error)          // what Keep put there last
	Listen(mac string) error        // has the network device with that address answer as Echo does, from now on
	Reboot() error                  // the way a guest ends itself
	Panic() error                   // the guest's kernel panics
}

// Drive is an open block device.
type Drive interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	Close() error
}

// MaxLine bounds a line of the conversation, newline included.
const MaxLine = 64 << 10

// Hello is the first line a guest sends on every new connection, followed by
// the number of connections it has seen end.
const Hello = "hello"

// Serve answers on one connection until it ends, which is not an error, or
// until the guest does, which is ErrEnd.
// hangUps is told to the other side in the greeting.
func Serve(conn io.ReadWriter, g Guest, hangUps int) error {
	if _, err := fmt.Fprintf(conn, "%s %d\n", Hello, hangUps); err != nil {
		return err
	}
	in := bufio.NewReaderSize(conn, MaxLine)
	for {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := reply(conn, g, strings.Fields(string(line))); err != nil {
			return err
		}
	}
}

func reply(conn io.Writer, g Guest, words []string) error {
	if len(words) == 0 {
		return nil
	}
	said, err := act(g, words[0], words[1:])
	if errors.Is(err, ErrEnd) {
		return err
	}
	if err != nil {
		said = "error " + strings.ReplaceAll(err.Error(), "\n", " ")
	} else {
		said = "ok " + said
	}
	_, err = io.WriteString(conn, said+"\n")
	return err
}

func act(g Guest, verb string, args []string) (string, error) {
	switch verb {
	case "echo":
		return strings.Join(args, " "), nil
	case "cpus":
		return strconv.Itoa(g.CPUs()), nil
	case "cmdline":
		return g.Cmdline(), nil
	case "uptime":
		up, err := g.Uptime()
		return strconv.FormatInt(int64(up), 10), err
	case "sleep":
		return sleep(g, args)
	case "read", "write":
		return access(g, verb, args)
	case "fill", "drain":
		return "", run(g, verb, args)
	case "say":
		return "", g.Console(strings.Join(args, " "))
	case "flood":
		return "", flood(g, args)
	case "keep":
		return "", g.Keep(strings.Join(args, " "))
	case "kept":
		return g.Kept()
	case "listen":
		return "", g.Listen(strings.Join(args, ""))
	case "reboot":
		return "", g.Reboot()
	case "doom":
		return "", doom(g, args)
	case "panic":
		return "", g.Panic()
	}
	return "", fmt.Errorf("unknown verb %q", verb)
}

// sleep waits for args[0] nanoseconds and returns how long that took by the
// guest's clock.
func sleep(g Guest, args []string) (string, error) {
	n, err := ints(args, 1)
	if err != nil {
		return "", err
	}
	began, err := g.Uptime()
	if err != nil {
		return "", err
	}
	time.Sleep(time.Duration(n[0]))
	ended, err := g.Uptime()
	return strconv.FormatInt(int64(ended-began), 10), err
}

// Doomed is what a guest writes to its console when it is going to reboot soon.
const Doomed = "doomed"

// doom reboots after args[0] nanoseconds, whoever is there by then.
func doom(g Guest, args []string) error {
	n, err := ints(args, 1)
	if err == nil {
		err = g.Console(Doomed)
	}
	if err != nil {
		return err
	}
	time.Sleep(time.Duration(n[0]))
	return g.Reboot()
}

// access is read DRIVE OFFSET LENGTH, which returns hex, and write DRIVE OFFSET
// HEX, which returns once the drive has been synced.
func access(g Guest, verb string, args []string) (_ string, err error) {
	if len(args) != 3 {
		return "", errors.New("want three arguments")
	}
	n, err := ints(args[:2], 2)
	if err != nil {
		return "", err
	}
	d, err := g.Drive(int(n[0]))
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if verb == "write" {
		return "", write(d, n[1], args[2])
	}
	size, err := ints(args[2:], 1)
	if err != nil {
		return "", err
	}
	data := make([]byte, min(size[0], MaxLine/2-16))
	_, err = d.ReadAt(data, n[1])
	return hex.EncodeToString(data), err
}

// run is fill DRIVE BYTES or drain DRIVE BYTES: it writes or reads so much, block
// after block, each of which has reached the drive before the next is begun.
func run(g Guest, verb string, args []string) (err error) {
	n, err := ints(args, 2)
	if err != nil {
		return err
	}
	d, err := g.Drive(int(n[0]))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	block := make([]byte, runBlock)
	for at := int64(0); at < n[1]; at += runBlock {
		if verb == "drain" {
			_, err = d.ReadAt(block, at)
		} else if _, err = d.WriteAt(block, at); err == nil {
			err = d.Sync()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

const runBlock = 64 << 10

func write(d Drive, at int64, digits string) error {
	data, err := hex.DecodeString(digits)
	if err != nil {
		return err
	}
	if _, err := d.WriteAt(data, at); err != nil {
		return err
	}
	return d.Sync()
}

// flood writes at least args[0] bytes to the console.
func flood(g Guest, args []string) error {
	n, err := ints(args, 1)
	if err != nil {
		return err
	}
	line := strings.Repeat("flood ", 100)
	for left := n[0]; left > 0; left -= int64(len(line)) {
		if err := g.Console(line); err != nil {
			return err
		}
	}
	return nil
}

func ints(args []string, want int) ([]int64, error) {
	if len(args) != want {
		return nil, fmt.Errorf("want %d numbers", want)
	}
	n := make([]int64, want)
	for i, a := range args {
		v, err := strconv.ParseInt(a, 10, 64)
		if err != nil || v < 0 {
			return nil, fmt.Errorf("%q is no number", a)
		}
		n[i] = v
	}
	return n, nil
}
