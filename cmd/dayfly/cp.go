package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

const cpLong = `Copy a file or a directory with all that is in it into a workspace, or out of it.
WORKSPACE:PATH is in a workspace, from its working directory on if PATH does not
begin with a slash; anything with a slash before the colon is on this machine.
Where DST is a directory, or ends with a slash, SRC goes into it under its name.

- is a tar stream: on standard input, to be unpacked in a directory of the
workspace, or on standard output.

What is copied in belongs to the workspace's user (see -u). Modes are kept, the
set-user-id bit and owners are not; links stay links. Devices, sockets and pipes
are left out. Directories are packed by the workspace's own tar.`

// copier is one dayfly cp.
type copier struct {
	app  *app
	ws   *client.Workspace
	cl   *client.Client
	user string
	bar  *progress
}

func (a *app) cpCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "cp [flags] SRC DST", Short: "Copy files into a workspace or out of it", Long: cpLong,
		Example: `  dayfly cp app.py mayfly:/srv/
  dayfly cp mayfly:/var/log logs
  tar c src | dayfly cp - mayfly:/tmp
  dayfly cp mayfly:/srv - | tar t`,
		Args: exactly(2, "name what to copy, and where to: one of them as WORKSPACE:PATH"),
	}
	user := cmd.Flags().StringP("user", "u", "", "`USER` to read and write as (default: the workspace's)")
	quiet := cmd.Flags().BoolP("quiet", "q", false, "show no progress")
	cmd.RunE = func(c *cobra.Command, args []string) error {
		src, dst, err := sides(args[0], args[1])
		if err != nil {
			return err
		}
		return a.withClient(c, func(ctx context.Context, cl *client.Client) error {
			f, ok := file(a.stderr)
			hidden := *quiet || !ok || !term.IsTerminal(int(f.Fd()))
			cp := &copier{app: a, cl: cl, user: *user, bar: a.progress("cp", hidden)}
			defer cp.bar.Close()
			if dst.ref != "" {
				cp.ws = cl.Workspace(string(dst.ref))
				return cp.in(ctx, src.path, dst.path)
			}
			cp.ws = cl.Workspace(string(src.ref))
			return cp.out(ctx, src.path, dst.path)
		})
	}
	return cmd
}

// side is one end of a copy: in a workspace, or with an empty ref on this machine.
type side struct {
	ref  dayfly.ID
	path string
}

// stream is the path that stands for a tar stream.
const stream = "-"

// parseSide reads REF:PATH or a path of this machine.
func parseSide(arg string) (side, error) {
	before, after, remote := strings.Cut(arg, ":")
	switch {
	case arg == "":
		return side{}, dayfly.Errorf(dayfly.Invalid, "a path is empty: name a file, a directory, or - for a tar stream")
	case !remote || strings.Contains(before, "/"):
		return side{path: arg}, nil
	case strings.ContainsRune(after, 0):
		return side{}, dayfly.Errorf(dayfly.Invalid, "%q holds a NUL byte, which no path does", arg)
	}
	id, err := ref(before)
	if after == "" {
		after = "."
	}
	return side{ref: id, path: after}, err
}

func sides(from, to string) (src, dst side, err error) {
	src, err = parseSide(from)
	if err == nil {
		dst, err = parseSide(to)
	}
	switch {
	case err != nil:
	case src.ref == "" && dst.ref == "":
		err = dayfly.Errorf(dayfly.Invalid, "neither %s nor %s is in a workspace: write one of them as WORKSPACE:PATH", from, to)
	case src.ref != "" && dst.ref != "":
		err = dayfly.Errorf(dayfly.Invalid, "%s and %s are both in workspaces: copy by way of this machine, or dayfly cp %[1]s - | dayfly cp - %[2]s", from, to)
	}
	return src, dst, err
}

// in copies from this machine into the workspace.
func (c *copier) in(ctx context.Context, src, dst string) error {
	if src == stream {
		if err := c.ws.MkdirAll(ctx, dst); err != nil {
			return bare(err)
		}
		return c.unpackThere(ctx, dst, c.counted(c.app.stdin, 0))
	}
	st, err := os.Stat(src)
	if err != nil {
		return dayfly.Errorf(dayfly.Invalid, "%w", err)
	}
	to, err := c.target(ctx, src, dst)
	switch {
	case err != nil:
		return err
	case st.IsDir():
		return c.dirIn(ctx, src, to)
	case !st.Mode().IsRegular():
		return dayfly.Errorf(dayfly.Invalid, "%s is neither a file nor a directory", src)
	}
	return c.fileIn(ctx, src, to, st)
}

// target is the path in the workspace that src becomes.
func (c *copier) target(ctx context.Context, src, dst string) (string, error) {
	abs, err := filepath.Abs(src)
	if err != nil {
		return "", err
	}
	if strings.HasSuffix(dst, "/") {
		return path.Join(dst, filepath.Base(abs)), nil
	}
	st, err := c.ws.Stat(ctx, dst)
	switch {
	case err == nil && st.IsDir():
		return path.Join(dst, filepath.Base(abs)), nil
	case err == nil, missingThere(ctx, c, err):
		return dst, nil
	}
	return "", bare(err)
}

// missingThere says whether an error is about the file, and not its workspace.
func missingThere(ctx context.Context, c *copier, err error) bool {
	if !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	_, gone := c.cl.Workspaces.Get(ctx, c.ws.ID)
	return gone == nil
}

func (c *copier) fileIn(ctx context.Context, src, to string, st fs.FileInfo) error {
	f, err := os.Open(src)
	if err != nil {
		return dayfly.Errorf(dayfly.Invalid, "%w", err)
	}
	defer f.Close()
	if c.user != "" { // files of the API are the workspace's user's
		return c.unpackThere(ctx, path.Dir(to), packFile(c.counted(f, st.Size()), st, path.Base(to)))
	}
	if err := c.ws.Upload(ctx, to, c.counted(f, st.Size())); err != nil {
		return bare(err)
	}
	if st.Mode()&0o111 == 0 {
		return nil
	}
	return c.command(ctx, client.Command{Path: "chmod", Args: []string{fmt.Sprintf("%o", st.Mode().Perm()), there(to)}})
}

func (c *copier) dirIn(ctx context.Context, src, to string) error {
	total, err := sizeOf(src)
	if err != nil {
		return dayfly.Errorf(dayfly.Invalid, "%w", err)
	}
	if err := c.ws.MkdirAll(ctx, to); err != nil {
		return bare(err)
	}
	r, w := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		err := pack(w, src, func(n int64) { c.bar.Report(dayfly.Progress{Step: "copy", Done: n, Total: total}) }, c.leftOut)
		_ = w.CloseWithError(err)
		packed <- err
	}()
	err = c.unpackThere(ctx, to, r)
	_ = r.CloseWithError(io.ErrClosedPipe) // whoever still packs stops
	if packErr := <-packed; packErr != nil && !errors.Is(packErr, io.ErrClosedPipe) {
		return dayfly.Errorf(dayfly.Invalid, "%w", packErr)
	}
	return err
}

func (c *copier) leftOut(name, why string) {
	fmt.Fprintf(c.app.stderr, "left out: %s: %s\n", oneLine(name), why)
}

// unpackThere unpacks a tar stream in a directory of the workspace.
func (c *copier) unpackThere(ctx context.Context, dir string, r io.Reader) error {
	return c.command(ctx, client.Command{Path: "tar", Args: []string{"-x", "-o", "-f", "-", "-C", there(dir)}, Stdin: r})
}

// out copies from the workspace to this machine.
func (c *copier) out(ctx context.Context, src, dst string) error {
	if dst == stream {
		return c.command(ctx, client.Command{
			Path: "tar", Args: []string{"-c", "-f", "-", "-C", there(path.Dir(src)), "./" + path.Base(src)}, Stdout: c.app.stdout,
		})
	}
	st, err := c.ws.Stat(ctx, src)
	if err != nil {
		return bare(err)
	}
	to := dst
	if local, err := os.Stat(dst); (err == nil && local.IsDir() || strings.HasSuffix(dst, "/")) && path.Base(src) != "." {
		to = filepath.Join(dst, path.Base(path.Clean("/"+src)))
	}
	switch {
	case st.IsDir():
		return c.dirOut(ctx, src, to)
	case !st.Mode().IsRegular():
		return dayfly.Errorf(dayfly.Invalid, "%s is neither a file nor a directory", src)
	}
	return c.fileOut(ctx, src, to, st)
}

func (c *copier) fileOut(ctx context.Context, src, to string, st fs.FileInfo) error {
	body, err := c.ws.Open(ctx, src)
	if err != nil {
		return bare(err)
	}
	defer body.Close()
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, st.Mode().Perm())
	if err != nil {
		return dayfly.Errorf(dayfly.Invalid, "%w", err)
	}
	n, err := io.Copy(f, c.counted(body, st.Size()))
	if err = errors.Join(err, f.Close()); err != nil {
		return dayfly.Errorf(dayfly.Unavailable, "%s was copied up to %s: %w", to, humanBytes(n), err)
	}
	return nil
}

func (c *copier) dirOut(ctx context.Context, src, to string) error {
	root, err := rootAt(to)
	if err != nil {
		return dayfly.Errorf(dayfly.Invalid, "%w", err)
	}
	defer root.Close()
	r, w := io.Pipe()
	unpacked := make(chan error, 1)
	go func() {
		err := unpack(root, c.counted(r, 0), c.leftOut)
		if err == nil { // zeros may follow the end
			_, err = io.Copy(io.Discard, r)
		}
		_ = r.CloseWithError(err)
		unpacked <- err
	}()
	err = c.command(ctx, client.Command{Path: "tar", Args: []string{"-c", "-f", "-", "-C", there(src), "."}, Stdout: w})
	_ = w.CloseWithError(err)
	unpackErr := <-unpacked
	if err == nil || unpackErr != nil && !errors.Is(unpackErr, err) {
		err = unpackErr
	}
	return err
}

// there keeps a path from looking like a flag.
func there(p string) string {
	if strings.HasPrefix(p, "-") {
		return "./" + p
	}
	return p
}

// command runs a command of the workspace that has to go well.
func (c *copier) command(ctx context.Context, cmd client.Command) error {
	var said bytes.Buffer
	cmd.Stderr = &atMostOf{w: &said, left: maxSaid}
	cmd.User = c.user
	p, err := c.cl.Start(ctx, c.ws.ID, cmd)
	if code, ok := client.ExitCode(err); ok && code == 127 {
		return dayfly.Errorf(dayfly.Invalid, "there is no %s in the workspace: directories, tar streams and files of another user need it; single files do not", cmd.Path)
	}
	if err != nil {
		return err
	}
	exit, err := p.Wait()
	if err == nil && exit.Code != 0 {
		why := oneLine(strings.TrimSpace(said.String()))
		err = dayfly.Errorf(dayfly.Conflict, "%s in the workspace ended with %d: %s", cmd.Path, exit.Code, why)
	}
	return err
}

// maxSaid bounds what is kept of the words of a command.
const maxSaid = 4 << 10

// atMostOf writes what there is room for, and swallows the rest.
type atMostOf struct {
	w    io.Writer
	left int
}

func (l *atMostOf) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.left -= n
	if _, err := l.w.Write(p[:n]); err != nil {
		return 0, err
	}
	return len(p), nil
}

// counted shows how much of total has been read of r; 0: it is not known.
func (c *copier) counted(r io.Reader, total int64) io.Reader {
	var n int64
	return readerFunc(func(p []byte) (int, error) {
		got, err := r.Read(p)
		n += int64(got)
		c.bar.Report(dayfly.Progress{Step: "copy", Done: n, Total: total})
		return got, err
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// bare is an error of the client's file functions without what package fs adds.
func bare(err error) error {
	var p *fs.PathError
	var ours *dayfly.Error
	if errors.As(err, &p) && errors.As(p.Err, &ours) {
		return ours
	}
	return err
}
