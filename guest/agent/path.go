package agent

import (
	"path/filepath"
	"strings"

	"github.com/dayfly/dayfly/guest/wire"
)

// maxPath is the kernel's PATH_MAX (linux/limits.h).
const maxPath = 4096

// base is where relative paths start: the default directory, else the home.
func (s *state) base(user account) string {
	for _, dir := range []string{s.workdir, s.image.Workdir} {
		if dir != "" {
			return expand(user, dir)
		}
	}
	return user.home
}

// resolve makes a client's path absolute and clean. It does not look at the
// file system. ~ and ~/… are the user's home; other users' are not known.
func (s *state) resolve(user account, path string) (string, error) {
	if strings.IndexByte(path, 0) >= 0 {
		return "", wire.Errorf(wire.InvalidArgument, "path holds a NUL byte")
	}
	if len(path) > maxPath {
		return "", wire.Errorf(wire.InvalidArgument, "path of %d bytes: at most %d are allowed", len(path), maxPath)
	}
	if len(path) > 1 && path[0] == '~' && path[1] != '/' {
		return "", wire.Errorf(wire.InvalidArgument, "path %q: only ~ itself, one's own home, is known", path)
	}
	path = expand(user, path)
	if !filepath.IsAbs(path) {
		path = filepath.Join(s.base(user), path)
	}
	return filepath.Clean("/" + path), nil
}

func expand(user account, path string) string {
	if path == "~" || strings.HasPrefix(path, "~/") {
		return filepath.Join(user.home, path[1:])
	}
	return path
}
