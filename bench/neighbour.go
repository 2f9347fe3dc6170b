package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
	"github.com/dayfly/dayfly/undo"
	"github.com/dayfly/dayfly/vmm/qemu"
)

// noise is the process in a workspace that wants all there is: it computes,
// writes to its disk, takes memory and makes processes, each without end. What
// the guest's kernel ends of it, for want of memory, it begins again; that it is
// what takes the memory, and nothing else in the guest, keeps the noise going.
const noise = `
import os, time
def spin():
    while True: pass
def write():
    block = os.urandom(1 << 20)
    while True:
        with open("/tmp/noise", "wb") as f:
            for _ in range(64): f.write(block)
            os.fsync(f.fileno())
def fill():
    with open("/proc/self/oom_score_adj", "w") as f: f.write("1000")
    kept = []
    while True: kept.append(bytearray(b"x") * (1 << 20))
def fork():
    while True:
        try:
            if os.fork() == 0:
                time.sleep(.1)
                os._exit(0)
            while os.waitpid(-1, os.WNOHANG)[0]: pass
        except OSError: pass
doing = {}
def begin(what):
    pid = os.fork()
    if pid == 0: what()
    doing[pid] = what
for what in spin, write, fill, fork: begin(what)
print("ready", flush=True)
while True: begin(doing.pop(os.wait()[0]))
`

// job is what is asked of the workspace that is measured: from the request to the
// end of the command.
type job struct {
	name  string
	times int // in every sample
	args  []string
}

var jobs = []job{
	{"near-echo", 10, []string{"echo", "hello"}},
	{"near-cpu", 2, []string{"sh", "-c", "i=0; while [ $i -lt 15000 ]; do i=$((i+1)); done; echo hello"}},
	{"near-write", 2, []string{"sh", "-c", "dd if=/dev/zero of=/tmp/file bs=1M count=16 conv=fsync,notrunc 2>/dev/null; echo hello"}},
}

// beside is who is awake on the host while a workspace is measured that has no
// limit but its machine's. A neighbour has what is said here, and noise.
type beside struct {
	name  string
	count int     // of neighbours
	limit float64 // of CPUs that the jail of each gives
	what  string
}

// besides begin with nobody. The last asks for twice what a host of two CPUs has.
var besides = []beside{
	{"alone", 0, 0, "alone"},
	{"quarter", 1, .25, "beside one full of noise with --cpus 0.25"},
	{"whole", 1, 1, "beside one full of noise with --cpus 1"},
	{"crowd", 3, 1, "beside three of those"},
}

func nearName(kind, of string) string { return kind + "." + of }

// nearNames are the series of jobs, alone and beside all.
func nearNames(jobs ...string) (names []string) {
	for _, job := range jobs {
		for _, b := range besides {
			names = append(names, nearName(job, b.name))
		}
	}
	return names
}

// besideAlone pairs the series of each job with that of the same job alone.
func besideAlone(of string) (pairs []string) {
	for _, j := range jobs {
		pairs = append(pairs, nearName(j.name, of), nearName(j.name, besides[0].name))
	}
	return pairs
}

func (b beside) series() (names []string) {
	for _, j := range jobs {
		names = append(names, nearName(j.name, b.name))
	}
	if b.count > 0 {
		names = append(names, nearName("limit-cpu", b.name))
	}
	return names
}

// neighbour is a workspace full of noise, which stands still but for its turn.
type neighbour struct {
	limit float64
	vmm   *os.Process
}

// nearby is a workspace that is measured, and its neighbours.
type nearby struct {
	server *server
	id     dayfly.ID
	others []neighbour
}

// neighbours are a workspace that is measured alone and beside each neighbour, in
// turn, and the limits of jails by themselves.
func neighbours(ctx context.Context, b bed, back *undo.Stack) ([]subject, error) {
	s, err := newServer(ctx, b, 0, back)
	if err != nil {
		return nil, err
	}
	n := &nearby{server: s}
	ws, err := s.Workspaces.Create(ctx, dayfly.Spec{Image: b.image, DiskMiB: usualDisk, Accel: dayfly.Accel(b.accel)})
	if err != nil {
		return nil, err
	}
	n.id = ws.ID
	for _, at := range besides {
		for len(n.with(at.limit)) < at.count {
			if err := n.move(ctx, at.limit, back); err != nil {
				return nil, fmt.Errorf("%s: %w", at.name, err)
			}
		}
	}
	var list []subject
	const warm = 2 // what the emulator has translated then, it keeps
	for _, at := range besides {
		list = append(list, subject{"beside " + at.name, at.series(), warm, func(ctx context.Context) (notes, error) { return n.once(ctx, at) }})
	}
	io, err := newIOLimit(b, back)
	if err != nil {
		return nil, err
	}
	if io != nil {
		list = append(list, subject{"limit-io", []string{"limit-io"}, 0, io.once})
	}
	return list, nil
}

// with are the neighbours of a limit.
func (n *nearby) with(limit float64) (list []neighbour) {
	for _, o := range n.others {
		if o.limit == limit {
			list = append(list, o)
		}
	}
	return list
}

// move has a neighbour come, make noise, and stand still.
func (n *nearby) move(ctx context.Context, limit float64, back *undo.Stack) error {
	const memory = 256 // MiB
	ws, err := n.server.Workspaces.Create(ctx, dayfly.Spec{
		Image: n.server.bed.image, DiskMiB: usualDisk, MemoryMiB: memory, CPULimit: limit, Accel: dayfly.Accel(n.server.bed.accel),
	})
	if err != nil {
		return err
	}
	carried, leave := context.WithCancel(ctx) // then it runs on by itself
	defer leave()
	out := &output{first: make(chan struct{})}
	p, err := n.server.Start(carried, ws.ID, client.Command{Path: "python3", Args: []string{"-c", noise}, Stdout: out, Stderr: out})
	if err != nil {
		return err
	}
	select {
	case <-out.first:
	case <-p.Done():
	}
	if said := out.text(); said != "ready\n" {
		return fmt.Errorf("the noise said %q", said)
	}
	pids, err := qemu.Orphans(ctx, filepath.Join(n.server.bed.dir, "workspaces", string(ws.ID)))
	if err == nil && len(pids) != 1 {
		err = fmt.Errorf("workspace %s has %d VMM processes", ws.ID, len(pids))
	}
	if err != nil {
		return err
	}
	vmm, err := os.FindProcess(pids[0])
	if err != nil {
		return err
	}
	other := neighbour{limit, vmm}
	n.others = append(n.others, other)
	back.Push("neighbour", func(context.Context) error { // a guest full of noise takes long to end in order
		if err := vmm.Kill(); !errors.Is(err, os.ErrProcessDone) {
			return err
		}
		return nil
	})
	return other.wake(false)
}

// wake lets the neighbour's VMM go on, or stops it, as a shell does with jobs.
func (o neighbour) wake(awake bool) error {
	if awake {
		return o.vmm.Signal(syscall.SIGCONT)
	}
	return o.vmm.Signal(syscall.SIGSTOP)
}

// once takes a sample of each job, with those neighbours awake.
func (n *nearby) once(ctx context.Context, at beside) (_ notes, err error) {
	syscall.Sync() // what the last neighbours wrote is not these ones'
	list := notes{}
	var awake []watched
	for _, o := range n.with(at.limit)[:at.count] {
		w, err := o.watch()
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, o.wake(false)) }()
		if err := o.wake(true); err != nil {
			return nil, err
		}
		awake = append(awake, w)
	}
	for _, j := range jobs {
		name := nearName(j.name, at.name)
		for range j.times {
			took, err := n.ask(ctx, j.args)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", j.name, err)
			}
			list[name] = append(list[name], ms(took))
		}
	}
	for _, w := range awake {
		share, err := w.share()
		if err != nil {
			return nil, err
		}
		fair := min(at.limit, float64(runtime.NumCPU())/float64(at.count+1))
		if share < fair/4 { // there may be others on the host
			return nil, fmt.Errorf("a neighbour had %.2f CPUs, and could have %.2f: it makes no noise", share, fair)
		}
		name := nearName("limit-cpu", at.name)
		list[name] = append(list[name], share)
	}
	return list, nil
}

// ask runs a command that prints hello, to its end.
func (n *nearby) ask(ctx context.Context, args []string) (time.Duration, error) {
	began := time.Now()
	out := &output{first: make(chan struct{})}
	p, err := n.server.Start(ctx, n.id, client.Command{Path: args[0], Args: args[1:], Stdout: out})
	if err != nil {
		return 0, err
	}
	exit, err := p.Wait()
	took := time.Since(began)
	if err == nil && (exit.Code != 0 || out.text() != "hello\n") {
		err = fmt.Errorf("exit code %d, printed %q", exit.Code, out.text())
	}
	return took, err
}

// watched is a neighbour since a moment.
type watched struct {
	neighbour
	since time.Time
	used  time.Duration // of processors, until then
}

func (o neighbour) watch() (watched, error) {
	used, err := cpuTime(o.vmm.Pid)
	return watched{o, time.Now(), used}, err
}

// share is what it has had of processors since.
func (w watched) share() (float64, error) {
	used, err := cpuTime(w.vmm.Pid)
	return (used - w.used).Seconds() / time.Since(w.since).Seconds(), err
}

// cpuTime is what a process has had of processors: proc_pid_stat(5), in ticks of
// a hundredth of a second.
func cpuTime(pid int) (time.Duration, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	const utime, stime = 11, 12 // behind the name
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	var sum time.Duration
	for _, i := range []int{utime, stime} {
		ticks, err := strconv.ParseInt(f[i], 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(ticks) * 10 * time.Millisecond
	}
	return sum, nil
}
