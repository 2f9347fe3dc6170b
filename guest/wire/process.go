package wire

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strconv"
)

// Procedures of the Process service.
const (
	ProcessList        = "/process.Process/List"        // ListRequest -> ListResponse
	ProcessStart       = "/process.Process/Start"       // StartRequest -> stream of ProcessEvents
	ProcessConnect     = "/process.Process/Connect"     // ConnectRequest -> stream of ProcessEvents
	ProcessUpdate      = "/process.Process/Update"      // UpdateRequest -> Empty
	ProcessSendInput   = "/process.Process/SendInput"   // SendInputRequest -> Empty
	ProcessStreamInput = "/process.Process/StreamInput" // stream of StreamInputRequests -> Empty
	ProcessSendSignal  = "/process.Process/SendSignal"  // SendSignalRequest -> Empty
	ProcessCloseStdin  = "/process.Process/CloseStdin"  // CloseStdinRequest -> Empty
)

// KeepaliveHeader is the request header with the seconds between two keepalive
// events on a quiet stream.
const KeepaliveHeader = "Keepalive-Ping-Interval"

// Empty is a message without fields.
type Empty struct{}

// PTY asks for a terminal, or for its new size.
type PTY struct {
	Size *Size `json:"size,omitempty"`
}

// Size is a terminal's size in characters.
type Size struct {
	Cols uint32 `json:"cols,omitempty"`
	Rows uint32 `json:"rows,omitempty"`
}

// ProcessConfig is what to run. With Cmd empty it is the image's entrypoint,
// followed by Args or, without any, by the image's own arguments.
type ProcessConfig struct {
	Cmd  string            `json:"cmd,omitempty"`
	Args []string          `json:"args,omitempty"`
	Envs map[string]string `json:"envs,omitempty"`
	Cwd  *string           `json:"cwd,omitempty"`
}

// ProcessSelector names a process by pid or by the tag given at its start.
type ProcessSelector struct {
	PID uint32 `json:"pid,omitempty"`
	Tag string `json:"tag,omitempty"`
}

// ListRequest asks for the running processes.
type ListRequest struct{}

// ListResponse holds the running processes, by ascending pid.
type ListResponse struct {
	Processes []ProcessInfo `json:"processes,omitempty"`
}

// ProcessInfo is one running process.
type ProcessInfo struct {
	Config ProcessConfig `json:"config"`
	PID    uint32        `json:"pid"`
	Tag    *string       `json:"tag,omitempty"`
}

// StartRequest starts a process. The user is the one of HTTP Basic
// authentication, else the default user. A Connect-Timeout-Ms header is the
// process's lifetime as well as the stream's.
type StartRequest struct {
	Process *ProcessConfig `json:"process,omitempty"`
	PTY     *PTY           `json:"pty,omitempty"`
	Tag     *string        `json:"tag,omitempty"`
	Stdin   *bool          `json:"stdin,omitempty"` // a pipe for input; unset means true, as for old clients
}

// ConnectRequest joins the output of a running process, from now on.
type ConnectRequest struct {
	Process *ProcessSelector `json:"process,omitempty"`
}

// UpdateRequest resizes a process's terminal.
type UpdateRequest struct {
	Process *ProcessSelector `json:"process,omitempty"`
	PTY     *PTY             `json:"pty,omitempty"`
}

// ProcessInput is input for a process: exactly one field is set.
type ProcessInput struct {
	Stdin *Bytes `json:"stdin,omitempty"`
	PTY   *Bytes `json:"pty,omitempty"`
}

// SendInputRequest writes to a process. The answer comes when all is written.
type SendInputRequest struct {
	Process *ProcessSelector `json:"process,omitempty"`
	Input   *ProcessInput    `json:"input,omitempty"`
}

// StreamInputRequest is one message of an input stream: Start first, then Data
// and Keepalive in any order.
type StreamInputRequest struct {
	Start     *StreamInputStart `json:"start,omitempty"`
	Data      *StreamInputData  `json:"data,omitempty"`
	Keepalive *Empty            `json:"keepalive,omitempty"`
}

// StreamInputStart names the process an input stream is for.
type StreamInputStart struct {
	Process *ProcessSelector `json:"process,omitempty"`
}

// StreamInputData is input in a stream.
type StreamInputData struct {
	Input *ProcessInput `json:"input,omitempty"`
}

// SendSignalRequest signals a process and all of its group.
type SendSignalRequest struct {
	Process *ProcessSelector `json:"process,omitempty"`
	Signal  Signal           `json:"signal,omitempty"`
}

// CloseStdinRequest ends a process's input pipe.
type CloseStdinRequest struct {
	Process *ProcessSelector `json:"process,omitempty"`
}

// EventResponse is one message of a Start or Connect stream.
type EventResponse struct {
	Event ProcessEvent `json:"event"`
}

// ProcessEvent is one thing that happened to a process: exactly one field is
// set. The first event of a stream is Start; the last of a finished process End.
type ProcessEvent struct {
	Start     *StartEvent `json:"start,omitempty"`
	Data      *DataEvent  `json:"data,omitempty"`
	End       *EndEvent   `json:"end,omitempty"`
	Keepalive *Empty      `json:"keepalive,omitempty"`
}

// StartEvent says which process the stream is about.
type StartEvent struct {
	PID uint32 `json:"pid,omitempty"`
}

// DataEvent is output: one field is set.
type DataEvent struct {
	Stdout Bytes `json:"stdout,omitempty"`
	Stderr Bytes `json:"stderr,omitempty"`
	PTY    Bytes `json:"pty,omitempty"`
}

// EndEvent says how a process ended.
type EndEvent struct {
	ExitCode int32   `json:"exitCode,omitempty"` // -1 where a signal ended it
	Exited   bool    `json:"exited,omitempty"`   // it ended by itself, not by a signal
	Status   string  `json:"status,omitempty"`   // such as "exit status 2" or "signal: killed"
	Error    *string `json:"error,omitempty"`    // Status again, unless the process succeeded
}

// AppendJSON adds the event to dst. Output is most of all traffic and the
// first event is on the way to the first byte of every command, so events do
// not go through reflection.
func (e EventResponse) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"event":{`...)
	switch ev := e.Event; {
	case ev.Start != nil:
		dst = append(dst, `"start":{"pid":`...)
		dst = strconv.AppendUint(dst, uint64(ev.Start.PID), 10)
		dst = append(dst, '}')
	case ev.Data != nil:
		dst = append(dst, `"data":{`...)
		dst = ev.Data.appendField(dst)
		dst = append(dst, '}')
	case ev.End != nil:
		b, _ := json.Marshal(ev.End) // strings and numbers only: cannot fail
		dst = append(dst, `"end":`...)
		dst = append(dst, b...)
	case ev.Keepalive != nil:
		dst = append(dst, `"keepalive":{}`...)
	}
	return append(dst, "}}"...)
}

// MarshalJSON is AppendJSON for encoding/json.
func (e EventResponse) MarshalJSON() ([]byte, error) { return e.AppendJSON(nil), nil }

func (d *DataEvent) appendField(dst []byte) []byte {
	name, data := "stdout", d.Stdout
	switch {
	case d.Stderr != nil:
		name, data = "stderr", d.Stderr
	case d.PTY != nil:
		name, data = "pty", d.PTY
	}
	dst = append(dst, '"')
	dst = append(dst, name...)
	dst = append(dst, `":"`...)
	dst = base64.StdEncoding.AppendEncode(dst, data)
	return append(dst, '"')
}

// parseOutput reads an output event in the form AppendJSON writes, without the
// two passes encoding/json makes. It returns false for anything else, which is
// then decoded in the ordinary way.
func (e *EventResponse) parseOutput(in []byte) bool {
	rest, ok := bytes.CutPrefix(in, []byte(`{"event":{"data":{"`))
	if !ok {
		return false
	}
	name, rest, ok := bytes.Cut(rest, []byte(`":"`))
	if !ok {
		return false
	}
	text, ok := bytes.CutSuffix(rest, []byte(`"}}}`))
	if !ok {
		return false
	}
	data := make(Bytes, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(data, text)
	if err != nil || bytes.ContainsAny(text, "\r\n") { // which base64 would skip
		return false
	}
	out := &DataEvent{}
	switch string(name) {
	case "stdout":
		out.Stdout = data[:n]
	case "stderr":
		out.Stderr = data[:n]
	case "pty":
		out.PTY = data[:n]
	default:
		return false
	}
	*e = EventResponse{ProcessEvent{Data: out}}
	return true
}
