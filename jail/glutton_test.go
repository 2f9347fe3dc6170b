package jail

import (
	"bufio"
	"fmt"
	"math"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// obey does what it is told by line after line of standard input: "read PATH",
// "write PATH", "remove PATH", "move OLD NEW", "link TO PATH", "symlink TO PATH"
// or "fill PATH". It answers each with a line.
func obey() int {
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		f := strings.Fields(in.Text() + " - -")
		var err error
		switch f[0] {
		case "read":
			var b []byte
			if b, err = os.ReadFile(f[1]); err == nil {
				fmt.Println("has", string(b))
				continue
			}
		case "write":
			err = os.WriteFile(f[1], []byte("by the jail"), 0o600)
		case "remove":
			err = os.Remove(f[1])
		case "move":
			err = os.Rename(f[1], f[2])
		case "link":
			err = os.Link(f[1], f[2])
		case "symlink":
			err = os.Symlink(f[1], f[2])
		case "fill":
			err = os.WriteFile(f[1], make([]byte, 1<<20), 0o600)
		}
		if err != nil {
			fmt.Println("refused", err)
			continue
		}
		fmt.Println("done")
	}
	return 0
}

func eatMemory() int {
	var kept [][]byte
	for range 64 {
		b := make([]byte, 8<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		kept = append(kept, b)
		fmt.Println(len(kept) * 8)
	}
	return 0
}

// eatThreads makes threads, each in a call that blocks.
func eatThreads() int {
	made := 0
	for range 4096 {
		started := make(chan bool)
		go func() {
			started <- true
			var fds [2]int
			if unix.Pipe(fds[:]) == nil {
				_, _ = unix.Read(fds[0], make([]byte, 1))
			}
		}()
		<-started
		made++
	}
	fmt.Println("ESCAPED", made)
	return 0
}

func fillDisk(path string) int {
	f, err := os.Create(path)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	b := make([]byte, 1<<20)
	for n := range 64 {
		if _, err := f.Write(b); err != nil {
			fmt.Println("stopped after", n, err)
			return 0
		}
	}
	fmt.Println("ESCAPED")
	return 0
}

// spin is how much of a CPU it had while it wanted all of one.
func spin(d time.Duration) float64 {
	var before, after unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &before); err != nil {
		return math.Inf(1)
	}
	began := time.Now()
	for time.Since(began) < d {
	}
	took := time.Since(began)
	if err := unix.Getrusage(unix.RUSAGE_SELF, &after); err != nil {
		return math.Inf(1)
	}
	used := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
	return float64(used) / float64(took)
}

// writeTimed writes size MiB, past the page cache or by it and then to the disk,
// and says how long it took.
func writeTimed(path string, size int, direct bool) int {
	flags := os.O_WRONLY | os.O_CREATE
	if direct {
		flags |= unix.O_DIRECT
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	b, err := unix.Mmap(-1, 0, 256<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE) // aligned
	began := time.Now()
	for n := 0; n < size<<20 && err == nil; n += len(b) {
		_, err = f.Write(b)
	}
	if err == nil && !direct {
		err = f.Sync()
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(time.Since(began))
	return 0
}
