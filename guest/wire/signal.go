package wire

import (
	"strconv"
	"strings"
)

// Signal is a Linux signal number. On the wire it is SIGNAL_SIGTERM and the
// like; E2B names two, we take all.
type Signal int32

// The signals E2B's clients know, and those a terminal or a CLI passes on.
const (
	SIGHUP   Signal = 1
	SIGINT   Signal = 2
	SIGQUIT  Signal = 3
	SIGKILL  Signal = 9
	SIGTERM  Signal = 15
	SIGWINCH Signal = 28
)

// maxSignal is the last real-time signal (asm-generic/signal.h: _NSIG is 64).
const maxSignal = 64

// linuxSignal is one signal: its number on x86 and arm (signal(7)), its name
// without SIG, and the text Go's syscall package has for it on Linux.
type linuxSignal struct {
	num  int32
	name string
	text string
}

// linuxSignals is a function, not a variable, so that it costs nothing at
// start and holds on any operating system a client runs on.
func linuxSignals() []linuxSignal {
	return []linuxSignal{
		{1, "HUP", "hangup"}, {2, "INT", "interrupt"}, {3, "QUIT", "quit"},
		{4, "ILL", "illegal instruction"}, {5, "TRAP", "trace/breakpoint trap"},
		{6, "ABRT", "aborted"}, {7, "BUS", "bus error"}, {8, "FPE", "floating point exception"},
		{9, "KILL", "killed"}, {10, "USR1", "user defined signal 1"},
		{11, "SEGV", "segmentation fault"}, {12, "USR2", "user defined signal 2"},
		{13, "PIPE", "broken pipe"}, {14, "ALRM", "alarm clock"}, {15, "TERM", "terminated"},
		{16, "STKFLT", "stack fault"}, {17, "CHLD", "child exited"}, {18, "CONT", "continued"},
		{19, "STOP", "stopped (signal)"}, {20, "TSTP", "stopped"},
		{21, "TTIN", "stopped (tty input)"}, {22, "TTOU", "stopped (tty output)"},
		{23, "URG", "urgent I/O condition"}, {24, "XCPU", "CPU time limit exceeded"},
		{25, "XFSZ", "file size limit exceeded"}, {26, "VTALRM", "virtual timer expired"},
		{27, "PROF", "profiling timer expired"}, {28, "WINCH", "window changed"},
		{29, "IO", "I/O possible"}, {30, "PWR", "power failure"}, {31, "SYS", "bad system call"},
		{6, "IOT", ""}, {17, "CLD", ""}, {29, "POLL", ""},
	}
}

// ParseSignal reads a signal as people write it: 15, TERM, SIGTERM, sigterm or
// SIGNAL_SIGTERM; RTMIN and RTMAX may carry an offset.
func ParseSignal(s string) (Signal, bool) {
	if n, err := strconv.Atoi(s); err == nil {
		return Signal(n), n >= 1 && n <= maxSignal
	}
	s = strings.ToUpper(s)
	s = strings.TrimPrefix(s, "SIGNAL_")
	s = strings.TrimPrefix(s, "SIG")
	for _, sig := range linuxSignals() {
		if sig.name == s {
			return Signal(sig.num), true
		}
	}
	return realTime(s)
}

// realTime reads RTMIN, RTMIN+n, RTMAX and RTMAX-n as glibc counts them: it
// keeps 32 and 33 for itself.
func realTime(s string) (Signal, bool) {
	var n, base int
	switch {
	case strings.HasPrefix(s, "RTMIN"):
		base, s = 34, strings.TrimPrefix(s[5:], "+")
	case strings.HasPrefix(s, "RTMAX"):
		base, s = maxSignal, s[5:]
	default:
		return 0, false
	}
	if s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			return 0, false
		}
	}
	n += base
	return Signal(n), n >= 34 && n <= maxSignal
}

// String returns SIGTERM and the like.
func (s Signal) String() string {
	for _, sig := range linuxSignals() {
		if sig.num == int32(s) {
			return "SIG" + sig.name
		}
	}
	return "signal " + strconv.Itoa(int(s))
}

// MarshalJSON writes SIGNAL_SIGTERM and the like, or a number.
func (s Signal) MarshalJSON() ([]byte, error) {
	if name := s.String(); strings.HasPrefix(name, "SIG") {
		return strconv.AppendQuote(nil, "SIGNAL_"+name), nil
	}
	return strconv.AppendInt(nil, int64(s), 10), nil
}

// UnmarshalJSON reads a name or a number.
func (s *Signal) UnmarshalJSON(in []byte) error {
	v, err := enum(in, func(name string) (int32, bool) {
		if name == "SIGNAL_UNSPECIFIED" {
			return 0, true
		}
		v, ok := ParseSignal(name)
		return int32(v), ok
	})
	*s = Signal(v)
	return err
}

// SignalOf returns the number of the Linux signal that ended a process, for
// the shell's 128+n, or false where no signal did. It goes by the text the
// agent sends ("signal: killed (core dumped)"), on any operating system.
func SignalOf(end EndEvent) (num int, ok bool) {
	text := end.Status
	if !strings.HasPrefix(text, "signal: ") && end.Error != nil {
		text = *end.Error
	}
	text, ok = strings.CutPrefix(text, "signal: ")
	if !ok {
		return 0, false
	}
	text = strings.TrimSuffix(text, " (core dumped)")
	for _, sig := range linuxSignals() {
		if sig.text == text && text != "" {
			return int(sig.num), true
		}
	}
	n, err := strconv.Atoi(strings.TrimPrefix(text, "signal ")) // Go's text for real-time signals
	return n, err == nil && n >= 1 && n <= maxSignal
}
