package jail

import (
	"bufio"
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dayfly/dayfly"
)

// What a jail of these tests has inside.
const (
	testRoom  = "/machine/run"
	testFile  = "/machine/file"
	testPlace = "/machine/place"
)

// servant is a program in a jail that does what it is told.
type servant struct {
	t    *testing.T
	jail *Jail
	in   io.Writer
	out  *bufio.Reader
}

func newServant(t *testing.T, s Spec) *servant {
	t.Helper()
	s.Shape = self(t)
	j := take(t, openPool(t, testOptions(t)), s)
	inR, inW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = inW.Close(), outR.Close() })
	_, err = j.Start(t.Context(), Command{Args: []string{"x", probeMark, "obey"}, Stdin: inR, Stdout: outW, Stderr: outW})
	_, _ = inR.Close(), outW.Close()
	if err != nil {
		t.Fatal(err)
	}
	return &servant{t, j, inW, bufio.NewReader(outR)}
}

// wants tells the servant something and compares the beginning of its answer.
func (s *servant) wants(order, answer string) {
	s.t.Helper()
	if _, err := io.WriteString(s.in, order+"\n"); err != nil {
		s.t.Fatal(err)
	}
	got, err := s.out.ReadString('\n')
	if err != nil || !strings.HasPrefix(got, answer) {
		s.t.Errorf("%s: %q, %v; want %q", order, strings.TrimSpace(got), err, answer)
	}
}

func (s *servant) mounts() int {
	s.t.Helper()
	b, err := os.ReadFile("/proc/" + strconv.Itoa(s.jail.proc.PID()) + "/mountinfo")
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.Count(string(b), "\n")
}

// private is a file that only root may read.
func private(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(tempDir(t), "private")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func fileIs(t *testing.T, path, want string) {
	t.Helper()
	if b, err := os.ReadFile(path); err != nil || string(b) != want {
		t.Errorf("the file holds %q, %v; want %q", b, err, want)
	}
}

func TestFileIsBroughtToWhatRuns(t *testing.T) {
	t.Parallel()
	first, second, third := private(t, "first"), private(t, "second"), private(t, "third")
	s := newServant(t, Spec{Files: []File{{Path: first, To: testFile, Own: true}}, Places: []string{testPlace}})
	s.wants("read "+testFile, "has first")
	s.wants("read "+testPlace, "has \n")
	before := s.mounts()
	if err := s.jail.Bring(File{Path: second, To: testPlace, Own: true}); err != nil {
		t.Fatal(err)
	}
	s.wants("read "+testPlace, "has second")
	s.wants("write "+testPlace, "refused")
	s.wants("read "+testFile, "has first")
	if err := s.jail.Shift(testPlace, testFile); err != nil {
		t.Fatal(err)
	}
	s.wants("read "+testFile, "has second")
	s.wants("read "+testPlace, "has \n")
	if got := s.mounts(); got != before {
		t.Errorf("there are %d mounts, not %d: one is hidden below another", got, before)
	}
	if err := s.jail.Bring(File{Path: third, To: testPlace, Write: true, Own: true}); err != nil {
		t.Fatal(err)
	}
	s.wants("write "+testPlace, "done")
	for range 2 { // of what is gone there is nothing to drop
		if err := s.jail.Drop(testPlace); err != nil {
			t.Fatal(err)
		}
	}
	s.wants("read "+testPlace, "has \n")
	fileIs(t, first, "first")
	fileIs(t, second, "second")
	fileIs(t, third, "by the jail")
	for _, path := range []string{first, second, third} {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil || st.Uid != 0 || st.Gid != 0 {
			t.Errorf("%s is user %d's: %v", path, st.Uid, err)
		}
	}
}

func TestWhatCannotBeBroughtIsRefused(t *testing.T) {
	t.Parallel()
	file := private(t, "file")
	link := filepath.Join(filepath.Dir(file), "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	s := newServant(t, Spec{Places: []string{testPlace}})
	for _, c := range []struct {
		what string
		file File
		kind dayfly.Kind
	}{
		{"a symbolic link", File{Path: link, To: testPlace, Own: true}, dayfly.Denied},
		{"a directory", File{Path: filepath.Dir(file), To: testPlace, Own: true}, dayfly.Invalid},
		{"a device", File{Path: "/dev/null", To: testPlace}, dayfly.Invalid},
		{"nothing", File{Path: file + ".not", To: testPlace, Own: true}, dayfly.Unavailable},
	} {
		if err := s.jail.Bring(c.file); dayfly.KindOf(err) != c.kind {
			t.Errorf("%s: %v; want %s", c.what, err, c.kind)
		}
	}
	if err := s.jail.Bring(File{Path: file, To: "/nowhere", Own: true}); err == nil {
		t.Error("a file was brought to where no place is")
	}
	s.wants("read "+testPlace, "has \n")
	if err := s.jail.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.jail.Bring(File{Path: file, To: testPlace, Own: true}); dayfly.KindOf(err) != dayfly.Conflict {
		t.Errorf("Bring to a closed jail = %v", err)
	}
	if _, err := s.jail.Look(testPlace); dayfly.KindOf(err) != dayfly.Conflict {
		t.Errorf("Look into a closed jail = %v", err)
	}
}

// TestPlantedLinkIsNotFollowed has the program put links where we look.
func TestPlantedLinkIsNotFollowed(t *testing.T) {
	t.Parallel()
	file := private(t, "the host's")
	s := newServant(t, Spec{Files: []File{{Path: file, To: testFile, Own: true}}, Room: testRoom, Places: []string{testPlace}})
	s.wants("write "+testRoom+"/own", "done")
	f, err := s.jail.Look(testRoom + "/own")
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	s.wants("symlink "+file+" "+testRoom+"/absolute", "done")
	s.wants("symlink ../file "+testRoom+"/relative", "done")
	s.wants("symlink / "+testRoom+"/root", "done")
	s.wants("symlink /proc/self/root "+testRoom+"/magic", "done")
	for _, name := range []string{"absolute", "relative", "root", "root/machine/file", "magic", "magic/machine/file"} {
		if f, err := s.jail.Look(testRoom + "/" + name); err == nil {
			_ = f.Close()
			t.Errorf("%s was followed", name)
		}
	}
	if f, err := s.jail.Look("/../../etc/passwd"); err == nil {
		_ = f.Close()
		t.Error("a path led out of the jail")
	}
	s.wants("link "+testFile+" "+testRoom+"/hard", "refused")
	s.wants("fill "+testRoom+"/large", "refused")
	s.wants("move "+testRoom+"/absolute "+testPlace, "refused")
	s.wants("move "+testRoom+"/absolute "+testFile, "refused")
	s.wants("remove "+testPlace, "refused")
	s.wants("remove "+testFile, "refused")
	s.wants("remove "+testRoom, "refused")
}

// TestFileIsBroughtToAnAdoptedJail: the next owner can do what the last one could.
func TestFileIsBroughtToAnAdoptedJail(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	p := openPool(t, o)
	file := private(t, "file")
	j := take(t, p, Spec{Shape: self(t), Room: testRoom, Places: []string{testPlace}})
	proc, err := j.Start(t.Context(), Command{Args: []string{"x", probeMark, "hang"}, Orphan: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Detach(); err != nil {
		t.Fatal(err)
	}
	if err := j.Bring(File{Path: file, To: testPlace, Own: true}); dayfly.KindOf(err) != dayfly.Conflict {
		t.Errorf("Bring to a jail that was let go of = %v", err)
	}
	next := openPool(t, o)
	if err := next.Sweep(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	again, err := next.Adopt(proc.PID())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := again.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := again.Bring(File{Path: file, To: testPlace, Own: true}); err != nil {
		t.Fatal(err)
	}
	f, err := again.Look(testPlace)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	there, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	here, err := os.Stat(file)
	if err != nil || !os.SameFile(there, here) {
		t.Errorf("another file is there: %v", err)
	}
	if room, err := again.Look(testRoom); err != nil {
		t.Error(err)
	} else {
		_ = room.Close()
	}
}

func TestRoomsAndPlacesThatLieInFilesAreRefused(t *testing.T) {
	t.Parallel()
	file := private(t, "file")
	p := openPool(t, testOptions(t))
	for what, s := range map[string]Spec{
		"a file in the room":      {Room: "/m", Files: []File{{Path: file, To: "/m/file"}}},
		"a place in the room":     {Room: "/m", Places: []string{"/m/place"}},
		"a room in a place":       {Room: "/m/place/room", Places: []string{"/m/place"}},
		"a place that is a file":  {Places: []string{"/m/file"}, Files: []File{{Path: file, To: "/m/file"}}},
		"a room in the jail's":    {Room: "/proc/room"},
		"a place in the jail's":   {Places: []string{"/dev/null"}},
		"a place that is no path": {Places: []string{"place"}},
	} {
		s.Shape = self(t)
		if j, err := p.Take(t.Context(), s); dayfly.KindOf(err) != dayfly.Invalid {
			t.Errorf("%s: %v", what, err)
			if err == nil {
				_ = j.Close()
			}
		}
	}
}

// TestManyDescriptorsAreHandedOver: also where the first process has some of its
// own by such numbers, it becomes the program each time.
func TestManyDescriptorsAreHandedOver(t *testing.T) {
	t.Parallel()
	p := openPool(t, testOptions(t))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	const most, standard = 32, 3
	c := say("there")
	c.Files = slices.Repeat([]*os.File{r}, most-standard)
	for range testCount - 2 { // each has a user
		if out, exit := output(t, take(t, p, Spec{Shape: self(t)}), c); out != "there" {
			t.Fatalf("it said %q and ended with %v", out, exit.Err())
		}
	}
	c.Files = append(c.Files, r)
	if _, err := take(t, p, Spec{Shape: self(t)}).Start(t.Context(), c); dayfly.KindOf(err) != dayfly.Invalid {
		t.Errorf("Start with more of them = %v", err)
	}
}
