package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/test/needs"
)

func TestEmptyStoreSaysHowToGetAKernel(t *testing.T) {
	t.Parallel()
	_, err := open(t).Boot(t.Context(), "")
	if dayfly.KindOf(err) != dayfly.NotFound || !strings.Contains(err.Error(), "kernel build") {
		t.Errorf("Boot = %v", err)
	}
}

// add puts a kernel into a store without a package or a compiler.
func add(t *testing.T, s *Store, release, flavour string) {
	t.Helper()
	j, err := s.newJob("test")
	if err != nil {
		t.Fatal(err)
	}
	defer j.remove()
	if err := os.MkdirAll(filepath.Join(j.path("kernel"), modulesDir), 0o700); err != nil {
		t.Fatal(err)
	}
	rec := record{Kernel: dayfly.Kernel{ID: release + "-0", Release: release, Flavour: flavour}}
	if err := s.add(j.path("kernel"), rec); err != nil {
		t.Fatal(err)
	}
}

func TestTunedKernelIsPreferredThenTheNewest(t *testing.T) {
	t.Parallel()
	s := open(t)
	for _, want := range []struct{ release, flavour, preferred string }{
		{"6.12.9-cloud-amd64", Distribution, "6.12.9-cloud-amd64"},
		{"6.12.10-cloud-amd64", Distribution, "6.12.10-cloud-amd64"},
		{"6.12.8-dayfly", Tuned, "6.12.8-dayfly"},
		{"6.13.1-cloud-amd64", Distribution, "6.12.8-dayfly"},
		{"6.12.10-dayfly", Tuned, "6.12.10-dayfly"},
	} {
		add(t, s, want.release, want.flavour)
		b, err := s.Boot(t.Context(), "")
		if err != nil || b.Kernel.Release != want.preferred || !b.Kernel.Preferred {
			t.Fatalf("with %s: Boot = %+v, %v; want %s", want.release, b.Kernel, err, want.preferred)
		}
	}
	list, err := s.List(t.Context())
	if err != nil || len(list) != 5 || !list[0].Preferred || list[1].Preferred {
		t.Errorf("List = %+v, %v", list, err)
	}
}

func TestKernelIsFoundByIDAndRelease(t *testing.T) {
	t.Parallel()
	s := open(t)
	k := imported(t, s, writeDeb(t, testPackage(t, "")))
	add(t, s, "6.13.1", Tuned)
	for _, id := range []string{k.ID, k.Release} {
		if b, err := s.Boot(t.Context(), id); err != nil || b.Kernel.ID != k.ID || b.Kernel.Preferred {
			t.Errorf("Boot(%q) = %+v, %v", id, b.Kernel, err)
		}
	}
	for _, id := range []string{"6.1", "../" + k.ID, "."} {
		if _, err := s.Boot(t.Context(), id); dayfly.KindOf(err) != dayfly.NotFound {
			t.Errorf("Boot(%q) = %v, want not found", id, err)
		}
	}
}

func TestReleasesAreOrderedByNumber(t *testing.T) {
	t.Parallel()
	want := []string{"5.10", "6.1.9", "6.1.10", "6.12", "6.12.9-a", "6.12.9-b", "6.12.010-a", "6.12.10-cloud", "6.12.117+deb12"}
	got := slices.Clone(want)
	slices.Reverse(got)
	slices.SortFunc(got, compareReleases)
	if !slices.Equal(got, want) {
		t.Errorf("order %v, want %v", got, want)
	}
}

func TestInitramfsHoldsAgentAndModules(t *testing.T) {
	t.Parallel()
	s := open(t)
	imported(t, s, writeDeb(t, testPackage(t, "")))
	b, err := s.Boot(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	got := unpackInitramfs(t, b.Initramfs)
	for _, dir := range []string{"dev", "proc", "sys", "new", "modules"} {
		if e := got[dir]; e.mode != modeDir|0o755 {
			t.Errorf("/%s has mode %o", dir, e.mode)
		}
	}
	if e := got["dev/console"]; e.mode != modeChar|0o600 {
		t.Errorf("/dev/console has mode %o", e.mode)
	}
	if e := got["dev/null"]; e.mode != modeChar|0o666 {
		t.Errorf("/dev/null has mode %o", e.mode)
	}
	if e := got["init"]; e.mode != modeFile|0o755 || e.data != "the agent" {
		t.Errorf("/init is %q with mode %o", e.data, e.mode)
	}
	load := "/modules/virtio_blk.ko\n/modules/dm_mod.ko\n/modules/libaes.ko\n/modules/dm_crypt.ko\n"
	if e := got["modules.load"]; e.data != load {
		t.Errorf("/modules.load is %q, want %q", e.data, load)
	}
	for path := range strings.Lines(load) {
		if e := got[strings.Trim(path, "/\n")]; !isELF([]byte(e.data)) {
			t.Errorf("%q is no module", path)
		}
	}
}

type entry struct {
	mode uint32
	data string
}

func unpackInitramfs(t *testing.T, path string) map[string]entry {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := map[string]entry{}
	for r := cpio.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		all[h.Name] = entry{uint32(h.Mode), string(data)}
	}
}

func TestDeviceNumbersAreInTheArchive(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	if err := writeInitramfs(&b, nil, "", nil); err != nil {
		t.Fatal(err)
	}
	// The two fields before the name's length: see the format.
	if want := fmt.Sprintf("%08X%08X%08X%08Xdev/console\x00", 5, 1, len("dev/console")+1, 0); !strings.Contains(b.String(), want) {
		t.Error("/dev/console is not device 5:1")
	}
}

func TestPackIsMadeOncePerAgent(t *testing.T) {
	t.Parallel()
	s := open(t)
	add(t, s, "6.12.1", Tuned)
	boot := func(agent string) (string, time.Time) {
		t.Helper()
		s, err := Open(s.dir, []byte(agent))
		if err != nil {
			t.Fatal(err)
		}
		b, err := s.Boot(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		if got := unpackInitramfs(t, b.Initramfs)["init"].data; got != agent {
			t.Fatalf("/init is %q, want %q", got, agent)
		}
		fi, err := os.Stat(b.Initramfs)
		if err != nil {
			t.Fatal(err)
		}
		return b.Initramfs, fi.ModTime()
	}
	first, _ := boot("agent 0")
	if again, _ := boot("agent 0"); again != first {
		t.Errorf("the same agent is packed twice: %s, %s", first, again)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(first, old, old); err != nil {
		t.Fatal(err)
	}
	for i := range keptPacks {
		boot(fmt.Sprintf("agent %d", i+1))
	}
	if _, err := os.Stat(first); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the pack of an agent long gone is still there: %v", err)
	}
	clean(t, s)
}

// helperDir tells the test binary, started once more, to begin a job in the
// store of that directory and to wait for its end.
const helperDir = "DAYFLY_TEST_JOB_IN"

func TestMain(m *testing.M) {
	if dir := os.Getenv(helperDir); dir != "" {
		s, err := Open(dir, nil)
		if err != nil {
			panic(err)
		}
		if _, err := s.newJob("build"); err != nil {
			panic(err)
		}
		fmt.Println("begun")
		select {}
	}
	os.Exit(m.Run())
}

func TestKilledWorkIsSwept(t *testing.T) {
	t.Parallel()
	s := open(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), helperDir+"="+s.dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	begun := make([]byte, len("begun"))
	if _, err := io.ReadFull(out, begun); err != nil {
		t.Fatal(err)
	}
	jobs := func() int {
		t.Helper()
		if _, err := Open(s.dir, nil); err != nil {
			t.Fatal(err)
		}
		all, err := os.ReadDir(s.temp())
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	if n := jobs(); n != 1 {
		t.Errorf("%d jobs while one is under way", n)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	if n := jobs(); n != 0 {
		t.Errorf("%d jobs after their process was killed", n)
	}
}

func TestDamagedStoreIsReported(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{
		"no JSON":         "{",
		"newer version":   `{"version": 99, "id": "6.12.1-0"}`,
		"another's place": `{"version": 1, "id": "6.12.2-0"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t)
			add(t, s, "6.12.1", Tuned)
			if err := os.WriteFile(filepath.Join(s.kernels(), "6.12.1-0", recordName), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := s.List(t.Context()); err == nil || !strings.Contains(err.Error(), "6.12.1-0") {
				t.Errorf("List = %v, want an error that names the kernel", err)
			}
		})
	}
}

func TestDebianPackageIsImported(t *testing.T) {
	deb := needs.KernelDeb(t)
	t.Parallel()
	s := open(t)
	k := imported(t, s, deb)
	rec, err := s.find(t.Context(), k.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []string{"virtio_mmio.ko", "virtio_blk.ko", "overlay.ko", "dm_crypt.ko", "xts.ko", "aesni_intel.ko"} {
		if !slices.Contains(rec.Modules, m) {
			t.Errorf("%s of %s is missing: %v", m, k.Release, rec.Modules)
		}
	}
	if b, err := s.Boot(t.Context(), k.ID); err != nil || slices.Contains(b.Cmdline, "acpi=off") {
		t.Errorf("it needs ACPI to find its devices, but Boot = %v, %v", b.Cmdline, err)
	}
}
