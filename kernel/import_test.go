package kernel

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/dayfly/dayfly"
)

func open(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "store"), []byte("the agent"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func imported(t *testing.T, s *Store, deb string) dayfly.Kernel {
	t.Helper()
	k, err := s.Import(t.Context(), deb, nil)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// clean fails the test unless nothing is left of any work.
func clean(t *testing.T, s *Store) {
	t.Helper()
	left, err := os.ReadDir(s.temp())
	if err != nil || len(left) > 0 {
		t.Errorf("left in the store's tmp: %v, %v", left, err)
	}
}

func TestImportedKernelIsWhole(t *testing.T) {
	t.Parallel()
	s, files := open(t), testPackage(t, "")
	var seen []dayfly.Progress
	k, err := s.Import(t.Context(), writeDeb(t, files), func(p dayfly.Progress) { seen = append(seen, p) })
	if err != nil {
		t.Fatal(err)
	}
	if k.Release != testRelease || k.Flavour != Distribution || !k.Preferred || k.Size != int64(len(testKernel(pvhNote, ""))) {
		t.Errorf("imported %+v", k)
	}
	if len(seen) == 0 || seen[len(seen)-1].Done > seen[len(seen)-1].Total {
		t.Errorf("progress: %+v", seen)
	}
	dir := filepath.Join(s.kernels(), k.ID)
	if got, err := os.ReadFile(filepath.Join(dir, vmlinuxName)); err != nil || !bytes.Equal(got, testKernel(pvhNote, "")) {
		t.Errorf("vmlinux: %v", err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, modulesDir, "virtio_blk.ko")); err != nil || !bytes.Equal(got, testModule("name=virtio_blk", "depends=")) {
		t.Errorf("the module is not what was signed: %v", err)
	}
	clean(t, s)
}

func TestModulesComeAfterWhatTheyNeed(t *testing.T) {
	t.Parallel()
	s := open(t)
	k := imported(t, s, writeDeb(t, testPackage(t, "")))
	rec, err := s.find(t.Context(), k.ID)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"virtio_blk.ko", "dm_mod.ko", "libaes.ko", "dm_crypt.ko"}
	if !slices.Equal(rec.Modules, want) {
		t.Errorf("modules %v, want %v", rec.Modules, want)
	}
}

func TestSameKernelIsImportedOnce(t *testing.T) {
	t.Parallel()
	s := open(t)
	deb := writeDeb(t, testPackage(t, ""))
	again, err := Open(s.dir, s.agent)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for _, one := range []*Store{s, s, again, again} {
		all.Go(func() {
			if _, err := one.Import(t.Context(), deb, nil); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	list, err := s.List(t.Context())
	if err != nil || len(list) != 1 {
		t.Errorf("List = %v, %v; want one kernel", list, err)
	}
	clean(t, s)
}

func TestBadPackagesLeaveNothing(t *testing.T) {
	t.Parallel()
	without := func(part string) []member {
		return slices.DeleteFunc(testPackage(t, ""), func(m member) bool { return strings.Contains(m.name, part) })
	}
	with := func(m ...member) []member { return append(testPackage(t, ""), m...) }
	whole := debBytes(t, testPackage(t, ""))
	for name, tt := range map[string]struct {
		deb  []byte
		want string
	}{
		"empty":               {nil, "not a Debian package"},
		"text":                {[]byte("hello, I am a package"), "not a Debian package"},
		"cut short":           {whole[:len(whole)-100], "unexpected EOF"},
		"cut before its data": {whole[:70], "cut short"},
		"no data":             {arMember([]byte(arMagic), "debian-binary", []byte("2.0\n")), "without files"},
		"unknown compression": {arMember([]byte(arMagic), "data.tar.lzo", []byte("x")), "is not known"},
		"no kernel":           {debBytes(t, without("vmlinuz")), "no kernel"},
		"two kernels":         {debBytes(t, with(testPackage(t, "")[0])), "two kernels"},
		"missing dependency":  {debBytes(t, without("dm-mod")), "dm_mod is not in the package"},
		"module in a circle":  {debBytes(t, append(without("dm-mod"), member{"./x/dm-mod.ko", testModule("depends=dm-crypt")})), "depends on itself"},
		"no module":           {debBytes(t, append(without("dm-mod"), member{"./x/dm-mod.ko", []byte("text")})), "module dm_mod"},
		"odd release":         {debBytes(t, []member{{"./boot/vmlinuz-6\n6", testKernel(pvhNote, "")}}), "release"},
		"no PVH entry":        {debBytes(t, []member{{"./boot/vmlinuz-6.1", testKernel("", "")}}), "PVH"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, deb := open(t), filepath.Join(t.TempDir(), "bad.deb")
			if err := os.WriteFile(deb, tt.deb, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := s.Import(t.Context(), deb, nil)
			if dayfly.KindOf(err) != dayfly.Invalid || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Import = %v (%s), want invalid with %q", err, dayfly.KindOf(err), tt.want)
			}
			if list, err := s.List(t.Context()); err != nil || len(list) > 0 {
				t.Errorf("List = %v, %v", list, err)
			}
			clean(t, s)
		})
	}
}

func TestImportCanBeCancelled(t *testing.T) {
	t.Parallel()
	s := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Import(ctx, writeDeb(t, testPackage(t, "")), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Import = %v", err)
	}
	clean(t, s)
}

func TestMissingPackageSaysHowToGetOne(t *testing.T) {
	t.Parallel()
	_, err := open(t).Import(t.Context(), "nowhere.deb", nil)
	if dayfly.KindOf(err) != dayfly.NotFound || !strings.Contains(err.Error(), "apt-get download") {
		t.Errorf("Import = %v", err)
	}
}

func FuzzDebianPackage(f *testing.F) {
	f.Add(debBytes(f, testPackage(f, "")))
	f.Add(arMember([]byte(arMagic), "data.tar", []byte("x")))
	f.Fuzz(func(t *testing.T, b []byte) {
		deb := filepath.Join(t.TempDir(), "x.deb")
		if err := os.WriteFile(deb, b, 0o600); err != nil {
			t.Fatal(err)
		}
		u, err := unpackDeb(t.Context(), deb, filepath.Join(t.TempDir(), "package"), func(dayfly.Progress) {})
		if err == nil && u.vmlinux == nil {
			t.Error("a package without a kernel was accepted")
		}
	})
}

func FuzzModule(f *testing.F) {
	f.Add(signed(testModule("depends=a,b-c", "softdep=pre: d post: e")))
	f.Fuzz(func(t *testing.T, b []byte) {
		info, err := modinfo(b)
		if err == nil && len(info.depends) > len(b) {
			t.Error("more dependencies than bytes")
		}
		if u := unsigned(b); !bytes.HasPrefix(b, u) {
			t.Error("a module without its signature is not a part of what it was")
		}
	})
}
