package qemu

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxMessage bounds one line of QMP. The longest that is asked for is what an
// adopted machine's drives consist of, where each of many layers names all below.
const maxMessage = 8 << 20

// message is one line of QMP: a greeting, a reply or an event. QEMU is trusted
// to be QEMU only until a guest has taken it over, so that nothing in one is
// believed without a look.
type message struct {
	Greeting *greeting       `json:"QMP"`
	ID       *uint64         `json:"id"`
	Return   json.RawMessage `json:"return"`
	Error    *qmpError       `json:"error"`
	Event    string          `json:"event"`
	Data     struct {
		Reason string `json:"reason"`
		Error  string `json:"error"`
	} `json:"data"`
}

type greeting struct {
	Version struct {
		QEMU struct {
			Major int `json:"major"`
			Minor int `json:"minor"`
			Micro int `json:"micro"`
		} `json:"qemu"`
		Package string `json:"package"`
	} `json:"version"`
}

// qmpError is a command's refusal.
type qmpError struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

func (e *qmpError) Error() string { return fmt.Sprintf("%.200q", e.Desc) }

var errNoMessage = errors.New("qmp: neither greeting, reply nor event")

// reader takes QMP apart into messages.
type reader struct{ lines *bufio.Scanner }

func newReader(r io.Reader) *reader {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 4<<10), maxMessage)
	return &reader{s}
}

// next returns the next message, and io.EOF after the last.
func (r *reader) next() (message, error) {
	for r.lines.Scan() {
		if len(r.lines.Bytes()) > 0 {
			return parse(r.lines.Bytes())
		}
	}
	if err := r.lines.Err(); err != nil {
		return message{}, fmt.Errorf("qmp: %w", err)
	}
	return message{}, io.EOF
}

// parse holds a message to the forms there are.
func parse(line []byte) (message, error) {
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return message{}, fmt.Errorf("qmp: %w", err)
	}
	kinds := 0
	for _, is := range []bool{m.Greeting != nil, m.Return != nil, m.Error != nil, m.Event != ""} {
		if is {
			kinds++
		}
	}
	if kinds != 1 {
		return message{}, errNoMessage
	}
	return m, nil
}
