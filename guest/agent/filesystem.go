package agent

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/dayfly/dayfly/guest/wire"
)

// maxEntries bounds one ListDir: about 30 MB of answer.
const maxEntries = 100_000

// serveFilesystem serves the procedures of filesystem.Filesystem, and says
// whether the path is one.
func (a *Agent) serveFilesystem(w http.ResponseWriter, r *http.Request) bool {
	switch r.URL.Path {
	case wire.FilesystemStat:
		wire.ServeUnary(w, r, onPath(a, r, a.stat))
	case wire.FilesystemMakeDir:
		wire.ServeUnary(w, r, onPath(a, r, a.makeDir))
	case wire.FilesystemRemove:
		wire.ServeUnary(w, r, onPath(a, r, a.remove))
	case wire.FilesystemMove:
		wire.ServeUnary(w, r, func(_ context.Context, req *wire.MoveRequest) (*wire.EntryResponse, error) {
			return a.move(r, req)
		})
	case wire.FilesystemListDir:
		wire.ServeUnary(w, r, func(ctx context.Context, req *wire.ListDirRequest) (*wire.ListDirResponse, error) {
			return a.listDir(ctx, r, req)
		})
	default:
		return a.serveWatch(w, r)
	}
	return true
}

// onPath resolves the path of a request for a procedure that takes nothing else.
func onPath[Resp any](a *Agent, r *http.Request, fn func(account, string) (*Resp, error)) func(context.Context, *wire.PathRequest) (*Resp, error) {
	return func(_ context.Context, req *wire.PathRequest) (*Resp, error) {
		user, path, err := a.pathOf(r, req.Path)
		if err != nil {
			return nil, err
		}
		return fn(user, path)
	}
}

// pathOf returns whom a request acts for and what it calls path.
func (a *Agent) pathOf(r *http.Request, path string) (account, string, error) {
	user, err := a.userOf(r)
	if err != nil {
		return user, "", err
	}
	path, err = a.state.Load().resolve(user, path)
	return user, path, err
}

func (a *Agent) stat(_ account, path string) (*wire.EntryResponse, error) {
	e, err := a.entryAt(path)
	if errors.Is(err, syscall.ENOTDIR) {
		err = fs.ErrNotExist // "does /etc/passwd/x exist?" has an answer
	}
	if err != nil {
		return nil, fileError("stat", path, err)
	}
	return &wire.EntryResponse{Entry: e}, nil
}

func (a *Agent) makeDir(user account, path string) (*wire.EntryResponse, error) {
	switch fi, err := os.Stat(path); {
	case err == nil && fi.IsDir():
		return nil, wire.Errorf(wire.AlreadyExists, "directory already exists: %s", path)
	case err == nil:
		return nil, wire.Errorf(wire.InvalidArgument, "path already exists but it is not a directory: %s", path)
	}
	if err := makeDirs(path, user); err != nil {
		return nil, fileError("make directory", path, err)
	}
	return a.stat(user, path)
}

// makeDirs makes a directory and its parents. What it makes is the user's.
func makeDirs(path string, user account) error {
	fi, err := os.Stat(path)
	switch {
	case err == nil && fi.IsDir():
		return nil
	case err == nil:
		return &fs.PathError{Op: "mkdir", Path: path, Err: syscall.ENOTDIR}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := makeDirs(filepath.Dir(path), user); err != nil {
		return err
	}
	err = os.Mkdir(path, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return nil // someone else was faster; what is wrong with it shows at its use
	}
	if err != nil {
		return err
	}
	return chown(path, user)
}

// chown gives what was made to its user, where the agent may.
func chown(path string, user account) error {
	if os.Geteuid() != 0 || user.uid == 0 && user.gid == 0 {
		return nil
	}
	return os.Lchown(path, int(user.uid), int(user.gid))
}

// remove removes a file or a whole directory; what is not there is fine.
func (a *Agent) remove(_ account, path string) (*wire.Empty, error) {
	if path == "/" {
		return nil, wire.Errorf(wire.InvalidArgument, "remove /: refused, it is the whole file system")
	}
	if err := os.RemoveAll(path); err != nil && !errors.Is(err, syscall.ENOTDIR) {
		return nil, fileError("remove", path, err)
	}
	return &wire.Empty{}, nil
}

func (a *Agent) listDir(ctx context.Context, r *http.Request, req *wire.ListDirRequest) (*wire.ListDirResponse, error) {
	_, path, err := a.pathOf(r, req.Path)
	if err != nil {
		return nil, err
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, fileError("list", path, err)
	}
	if fi, err := os.Stat(real); err == nil && !fi.IsDir() {
		return nil, wire.Errorf(wire.InvalidArgument, "path is not a directory: %s", path)
	}
	l := lister{a: a, ctx: ctx}
	if err := l.list(real, path, int(max(req.Depth, 1))); err != nil {
		return nil, fileError("list", path, err)
	}
	return &wire.ListDirResponse{Entries: l.out}, nil
}

// lister collects the entries below a directory.
type lister struct {
	a   *Agent
	ctx interface{ Err() error }
	out []wire.EntryInfo
}

func (l *lister) list(at, reported string, depth int) error {
	names, err := l.names(at)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := l.ctx.Err(); err != nil {
			return err
		}
		here := filepath.Join(at, name)
		fi, err := os.Lstat(here)
		if err != nil {
			continue // gone since it was read
		}
		l.out = append(l.out, *l.a.entry(here, filepath.Join(reported, name), fi))
		if !fi.IsDir() || depth <= 1 {
			continue
		}
		err = l.list(here, filepath.Join(reported, name), depth-1)
		var e *wire.Error
		if errors.As(err, &e) {
			return err // too many
		}
	}
	return l.ctx.Err()
}

// names returns a directory's names in order, as long as the bound allows.
func (l *lister) names(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var names []string
	for {
		batch, err := f.Readdirnames(4096)
		names = append(names, batch...)
		if len(l.out)+len(names) > maxEntries {
			return nil, wire.Errorf(wire.ResourceExhausted, "more than %d entries: list a part, or with less depth", maxEntries)
		}
		if errors.Is(err, io.EOF) || err == nil && len(batch) == 0 {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	slices.Sort(names)
	return names, nil
}
