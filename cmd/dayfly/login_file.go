package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"go.yaml.in/yaml/v3"

	"github.com/dayfly/dayfly"
)

// login is what dayfly login keeps for the commands that follow.
type login struct {
	Server string `yaml:"server"`
	Key    string `yaml:"key,omitempty"`
}

// Bounds on what is read where a key should be.
const (
	maxLogin = 64 << 10
	maxKey   = 1 << 10
)

// loginPath is the login file's, or empty where there is no place for one.
func (a *app) loginPath() string {
	dir := a.getenv("XDG_CONFIG_HOME")
	if !filepath.IsAbs(dir) {
		home := a.getenv("HOME")
		if !filepath.IsAbs(home) {
			return ""
		}
		dir = filepath.Join(home, ".config")
	}
	return filepath.Join(dir, "dayfly", "login.yaml")
}

// readLogin returns what is kept, which may be nothing. A file that others can
// read or could have written is refused.
func (a *app) readLogin() (l login, err error) {
	path := a.loginPath()
	f, err := os.Open(path)
	if path == "" || errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return l, dayfly.Errorf(dayfly.Invalid, "login: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return l, dayfly.Errorf(dayfly.Invalid, "login: %w", err)
	}
	owner, known := st.Sys().(*syscall.Stat_t)
	if st.Mode().Perm()&0o077 != 0 || !known || int(owner.Uid) != os.Geteuid() {
		return l, dayfly.Errorf(dayfly.Denied, "login: %s holds a key and is open to others than you: if nobody has seen it, chmod 600 it, "+
			"else dayfly logout and revoke the key", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxLogin))
	if err != nil {
		return l, dayfly.Errorf(dayfly.Invalid, "login: %w", err)
	}
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	if err := dec.Decode(&l); err != nil || l.Server == "" {
		// Not the parser's own words, which may quote the key.
		return login{}, dayfly.Errorf(dayfly.Invalid, "login: %s is not as dayfly login writes it: dayfly logout, then log in again", path)
	}
	return l, nil
}

// writeLogin keeps l. After a crash there is what was before, or l.
func (a *app) writeLogin(l login) (err error) {
	path := a.loginPath()
	if path == "" {
		return dayfly.Errorf(dayfly.Invalid, "login: there is no place for the key: set HOME or XDG_CONFIG_HOME, or use DAYFLY_SERVER and DAYFLY_API_KEY")
	}
	b, err := yaml.Marshal(l)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	}
	if err == nil {
		err = replace(path, b)
	}
	if err != nil {
		return dayfly.Errorf(dayfly.Unavailable, "login: %w", err)
	}
	return nil
}

// replace puts a file of mode 0600 in the place of another, durably.
func replace(path string, content []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// readKey reads a key, which is one line.
func readKey(r io.Reader) (string, error) {
	line, err := bufio.NewReader(io.LimitReader(r, maxKey+1)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", dayfly.Errorf(dayfly.Invalid, "key: %w", err)
	}
	if line = strings.TrimSpace(line); line == "" {
		return "", dayfly.Errorf(dayfly.Invalid, "the key is empty: it looks like dfk_…; an admin makes one with dayfly key create")
	}
	return checkKey(line)
}

// checkKey refuses what cannot travel in a header, without repeating it.
func checkKey(key string) (string, error) {
	odd := func(r rune) bool { return r <= ' ' || r > '~' }
	if len(key) > maxKey || strings.ContainsFunc(key, odd) {
		return "", dayfly.Errorf(dayfly.Invalid, "the key is not one line of printable ASCII characters without spaces: it looks like dfk_…")
	}
	return key, nil
}
