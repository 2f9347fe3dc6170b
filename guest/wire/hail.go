package wire

import (
	"bytes"
	"strconv"
	"strings"
)

// A session begins with four lines, whatever state either end was left in:
//
//	host   dayfly-hail NONCE     again and again, until there is an answer
//	agent  {"dayfly":2,…}        a Hello with that nonce, for each hail
//	host   dayfly-go NONCE
//	agent  dayfly-ready NONCE    then yamux, on both sides
//
// Between the hello and the go the host may make calls, one at a time, if the
// hello says that the agent takes them:
//
//	host   dayfly-call NONCE PATH SIZE          and SIZE bytes, as the body of a POST
//	agent  dayfly-answer NONCE STATUS SIZE      and SIZE bytes
//
// They are for a machine that was restored under emulation, for which code is
// expensive that runs for the first time: what makes a copy one of its own and
// lets it go on needs neither yamux nor an HTTP server.
//
// Neither end trusts what comes before: each reads lines and drops those that
// are not the next of its conversation. A host that connects to an agent in the
// middle of another session breaks that one with its hail, since no frame of
// yamux begins with a letter, and is heard when it hails again.
const (
	Hail  = "dayfly-hail "
	Go    = "dayfly-go "
	Ready = "dayfly-ready "

	callWord   = "dayfly-call "
	answerWord = "dayfly-answer "
)

// MaxCall bounds the body of a call ahead of a session, and of its answer. It is
// what a new host's padding fills (see docs/formats/guest.md) if the old one
// died in the middle of a body.
const MaxCall = 64 << 10

// NonceLen is the length of a nonce: hexadecimal digits, chosen by the host for
// each connection.
const NonceLen = 32

// MaxHello bounds the Hello line, newline included.
const MaxHello = 4 << 10

// Hello answers a hail: one line of JSON.
type Hello struct {
	Dayfly int    `json:"dayfly"`          // ProtocolVersion
	Agent  string `json:"agent"`           // version of the agent
	Init   bool   `json:"init"`            // an Init has been carried out already
	Calls  bool   `json:"calls,omitempty"` // calls are taken ahead of a session
	Nonce  string `json:"nonce,omitempty"` // the hail's
}

// AppendLine appends the hello as a line. It is written without reflection: the
// agent says it before anything of encoding/json is in memory.
func (h *Hello) AppendLine(b []byte) []byte {
	b = append(b, `{"dayfly":`...)
	b = strconv.AppendInt(b, int64(h.Dayfly), 10)
	b = append(b, `,"agent":"`...)
	b = appendPlain(b, h.Agent)
	b = append(b, `","init":`...)
	b = strconv.AppendBool(b, h.Init)
	if h.Calls {
		b = append(b, `,"calls":true`...)
	}
	if h.Nonce != "" {
		b = append(b, `,"nonce":"`...)
		b = appendPlain(b, h.Nonce)
		b = append(b, '"')
	}
	return append(b, '}', '\n')
}

// appendPlain leaves out of s what a JSON string would have to escape. Versions
// and ids have none of it.
func appendPlain(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c >= ' ' && c <= '~' && c != '"' && c != '\\' {
			b = append(b, c)
		}
	}
	return b
}

// AppendWord appends the line of a word, such as Hail, and a nonce.
func AppendWord(b []byte, word, nonce string) []byte {
	b = append(b, word...)
	b = append(b, nonce...)
	return append(b, '\n')
}

// CutWord returns the nonce of a line that is word and a nonce, newline
// included.
func CutWord(line []byte, word string) (nonce string, ok bool) {
	if len(line) != len(word)+NonceLen+1 || line[len(line)-1] != '\n' || !bytes.HasPrefix(line, []byte(word)) {
		return "", false
	}
	nonce = string(line[len(word) : len(line)-1])
	return nonce, isNonce(nonce)
}

func isNonce(s string) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return len(s) == NonceLen
}

// Call announces a body of Size bytes ahead of a session.
type Call struct {
	Nonce string
	Path  string // of a route that only the host may call
	Size  int    // 0 to MaxCall
}

// AppendLine appends the call's line.
func (c Call) AppendLine(b []byte) []byte {
	return appendFields(b, callWord, c.Nonce, c.Path, c.Size)
}

// CutCall returns what a line calls for, newline included.
func CutCall(line []byte) (c Call, ok bool) {
	c.Nonce, c.Path, c.Size, ok = cutFields(line, callWord)
	return c, ok && strings.HasPrefix(c.Path, "/")
}

// Answer announces the body of the answer to a Call.
type Answer struct {
	Nonce  string
	Status int // as HTTP has it
	Size   int // 0 to MaxCall
}

// AppendLine appends the answer's line.
func (a Answer) AppendLine(b []byte) []byte {
	return appendFields(b, answerWord, a.Nonce, strconv.Itoa(a.Status), a.Size)
}

// CutAnswer returns what a line answers, newline included.
func CutAnswer(line []byte) (a Answer, ok bool) {
	var status string
	a.Nonce, status, a.Size, ok = cutFields(line, answerWord)
	if !ok || len(status) != 3 {
		return a, false
	}
	n, err := strconv.ParseUint(status, 10, 16)
	a.Status = int(n)
	return a, err == nil && n >= 100
}

func appendFields(b []byte, word, nonce, what string, size int) []byte {
	b = append(b, word...)
	b = append(b, nonce...)
	b = append(b, ' ')
	b = append(b, what...)
	b = append(b, ' ')
	b = strconv.AppendInt(b, int64(size), 10)
	return append(b, '\n')
}

func cutFields(line []byte, word string) (nonce, what string, size int, ok bool) {
	if len(line) > MaxHello || !bytes.HasPrefix(line, []byte(word)) || line[len(line)-1] != '\n' {
		return "", "", 0, false
	}
	nonce, rest, _ := strings.Cut(string(line[len(word):len(line)-1]), " ")
	what, digits, _ := strings.Cut(rest, " ")
	n, err := strconv.ParseUint(digits, 10, 32)
	return nonce, what, int(n), err == nil && n <= MaxCall && isNonce(nonce)
}
