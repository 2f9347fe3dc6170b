package main

import (
	"crypto/tls"
	"os"
	"sync"
	"time"

	"github.com/dayfly/dayfly"
)

// certificate is a pair of files that may be renewed while the server runs.
type certificate struct {
	files tlsFiles

	mu    sync.Mutex
	read  *tls.Certificate
	stamp [2]time.Time // of the files when they were read
	asked time.Time
}

// lookAgain is how often the files are looked at for a change.
const lookAgain = 10 * time.Second

func newCertificate(files tlsFiles) (*certificate, error) {
	c := &certificate{files: files}
	if err := c.load(); err != nil {
		return nil, dayfly.Errorf(dayfly.Invalid, "tls: %w", err)
	}
	return c, nil
}

// get is tls.Config.GetCertificate. Files that cannot be read, or do not belong
// together while they are replaced, leave the last good pair in use.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.asked) > lookAgain && c.stamp != c.stamps() {
		_ = c.load()
	}
	return c.read, nil
}

func (c *certificate) load() error {
	stamp := c.stamps()
	pair, err := tls.LoadX509KeyPair(c.files.Cert, c.files.Key)
	c.asked = time.Now()
	if err != nil {
		return err
	}
	c.read, c.stamp = &pair, stamp
	return nil
}

func (c *certificate) stamps() (t [2]time.Time) {
	for i, path := range []string{c.files.Cert, c.files.Key} {
		if st, err := os.Stat(path); err == nil {
			t[i] = st.ModTime()
		}
	}
	return t
}
