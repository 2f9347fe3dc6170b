package agent

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/dayfly/dayfly/guest/wire"
)

// Where accounts are found. Only files are read: a static binary has no NSS.
const (
	passwdFile = "/etc/passwd"
	groupFile  = "/etc/group"

	maxAccountFile = 4 << 20 // bytes; the guest writes these files
)

// account is whom a process runs as and a file is made for.
type account struct {
	name   string
	uid    uint32
	gid    uint32
	groups []uint32 // supplementary
	home   string
}

// passwdEntry and groupEntry are lines of the files.
type passwdEntry struct {
	name     string
	uid, gid uint32
	home     string
}

type groupEntry struct {
	name    string
	gid     uint32
	members []string
}

// accounts reads the account files again only when they changed.
type accounts struct {
	mu         sync.Mutex
	passwd     cached[passwdEntry]
	group      cached[groupEntry]
	userNames  map[uint32]string // of passwd; nil until asked for
	groupNames map[uint32]string
}

// cached is a file's lines and which version of the file they are from.
type cached[E any] struct {
	stamp fileStamp
	lines []E
}

type fileStamp struct {
	dev, ino uint64
	size     int64
	mtime    syscall.Timespec
}

// load returns the file's lines. A file that is not there has none.
func (c *cached[E]) load(path string, parse func([]byte) []E) (changed bool, err error) {
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		changed = c.lines != nil
		*c = cached[E]{}
		return changed, nil
	}
	stamp := fileStamp{st.Dev, st.Ino, st.Size, st.Mtim}
	if stamp == c.stamp {
		return false, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxAccountFile+1))
	if err != nil {
		return false, err
	}
	if len(data) > maxAccountFile {
		return false, fmt.Errorf("%s: more than %d bytes", path, maxAccountFile)
	}
	*c = cached[E]{stamp, parse(data)}
	return true, nil
}

// refresh brings the lines up to date; mu is held.
func (a *accounts) refresh() error {
	changed, err := a.passwd.load(passwdFile, parsePasswd)
	if changed {
		a.userNames = nil
	}
	if err != nil {
		return err
	}
	changed, err = a.group.load(groupFile, parseGroup)
	if changed {
		a.groupNames = nil
	}
	return err
}

// forget drops what was read: the files are another workspace's.
func (a *accounts) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.passwd, a.group = cached[passwdEntry]{}, cached[groupEntry]{}
	a.userNames, a.groupNames = nil, nil
}

// lookup resolves what a client or an image calls a user: name, uid, name:group
// or uid:gid, in any mixture. With a group, that is the only one, as container
// runtimes have it. An unknown name is Unauthenticated, as E2B has it.
func (a *accounts) lookup(spec string) (account, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.refresh(); err != nil {
		return account{}, wire.Errorf(wire.Internal, "user %q: %v", spec, err)
	}
	user, group, withGroup := strings.Cut(spec, ":")
	acc, err := a.user(user)
	if err != nil {
		return account{}, err
	}
	if withGroup && group != "" {
		acc.groups = nil
		acc.gid, err = a.groupID(group)
	}
	return acc, err
}

func (a *accounts) user(name string) (account, error) {
	id, isID := parseID(name)
	for _, e := range a.passwd.lines {
		if e.name == name || isID && e.uid == id {
			return account{e.name, e.uid, e.gid, a.memberships(e), e.home}, nil
		}
	}
	switch {
	case isID:
		return account{name: name, uid: id, home: "/"}, nil
	case name == "root": // an image without /etc/passwd has a root all the same
		return account{name: "root", home: "/root"}, nil
	}
	return account{}, wire.Errorf(wire.Unauthenticated, "invalid username: %q is not in %s", name, passwdFile)
}

func (a *accounts) memberships(e passwdEntry) []uint32 {
	var gids []uint32
	for _, g := range a.group.lines {
		for _, m := range g.members {
			if m == e.name && g.gid != e.gid {
				gids = append(gids, g.gid)
				break
			}
		}
	}
	return gids
}

func (a *accounts) groupID(name string) (uint32, error) {
	for _, g := range a.group.lines {
		if g.name == name {
			return g.gid, nil
		}
	}
	if id, ok := parseID(name); ok {
		return id, nil
	}
	return 0, wire.Errorf(wire.Unauthenticated, "invalid group: %q is not in %s", name, groupFile)
}

// names returns what a user and a group are called, or their numbers.
func (a *accounts) names(uid, gid uint32) (owner, group string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	_ = a.refresh() // unreadable: numbers it is
	if a.userNames == nil {
		a.userNames = make(map[uint32]string, len(a.passwd.lines))
		for _, e := range a.passwd.lines {
			if _, dup := a.userNames[e.uid]; !dup {
				a.userNames[e.uid] = e.name
			}
		}
	}
	if a.groupNames == nil {
		a.groupNames = make(map[uint32]string, len(a.group.lines))
		for _, g := range a.group.lines {
			if _, dup := a.groupNames[g.gid]; !dup {
				a.groupNames[g.gid] = g.name
			}
		}
	}
	return nameOr(a.userNames, uid), nameOr(a.groupNames, gid)
}

func nameOr(names map[uint32]string, id uint32) string {
	if name, ok := names[id]; ok {
		return name
	}
	return strconv.FormatUint(uint64(id), 10)
}

// parsePasswd reads the lines of passwd(5) and skips what is not one.
func parsePasswd(data []byte) []passwdEntry {
	var out []passwdEntry
	for line := range bytes.Lines(data) {
		f := strings.Split(strings.TrimRight(string(line), "\r\n"), ":")
		if len(f) < 6 || !validName(f[0]) {
			continue
		}
		uid, ok1 := parseID(f[2])
		gid, ok2 := parseID(f[3])
		if !ok1 || !ok2 {
			continue
		}
		home := f[5]
		if !strings.HasPrefix(home, "/") || strings.ContainsRune(home, 0) {
			home = "/"
		}
		out = append(out, passwdEntry{f[0], uid, gid, home})
	}
	return out
}

// parseGroup reads the lines of group(5) and skips what is not one.
func parseGroup(data []byte) []groupEntry {
	var out []groupEntry
	for line := range bytes.Lines(data) {
		f := strings.Split(strings.TrimRight(string(line), "\r\n"), ":")
		if len(f) < 3 || !validName(f[0]) {
			continue
		}
		gid, ok := parseID(f[2])
		if !ok {
			continue
		}
		g := groupEntry{name: f[0], gid: gid}
		if len(f) > 3 && f[3] != "" {
			g.members = strings.Split(f[3], ",")
		}
		out = append(out, g)
	}
	return out
}

// validName keeps comments, NIS lines and bytes that cannot be in an
// environment out.
func validName(s string) bool {
	return s != "" && !strings.ContainsAny(s, "#+\x00") && s[0] != '-'
}

// parseID reads a uid or gid. The highest number means "none" to the kernel.
func parseID(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil && n != 1<<32-1 && s[0] != '+'
}
