package wire

import (
	"bytes"
	"strconv"
)

// A session begins with four lines, whatever state either end was left in:
//
//	host   dayfly-hail NONCE     again and again, until there is an answer
//	agent  {"dayfly":2,…}        a Hello with that nonce, for each hail
//	host   dayfly-go NONCE
//	agent  dayfly-ready NONCE    then yamux, on both sides
//
// Neither end trusts what comes before: each reads lines and drops those that
// are not the next of its conversation. A host that connects to an agent in the
// middle of another session breaks that one with its hail, since no frame of
// yamux begins with a letter, and is heard when it hails again.
const (
	Hail  = "dayfly-hail "
	Go    = "dayfly-go "
	Ready = "dayfly-ready "
)

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
	hex := line[len(word) : len(line)-1]
	for _, c := range hex {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return "", false
		}
	}
	return string(hex), true
}
