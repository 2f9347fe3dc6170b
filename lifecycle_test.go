package dayfly

import (
	"os"
	"strings"
	"testing"
)

// TestLifecycleIsDocumented holds the table of docs/lifecycle.md to the map.
func TestLifecycleIsDocumented(t *testing.T) {
	b, err := os.ReadFile("docs/lifecycle.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[State]string{}
	for line := range strings.Lines(string(b)) {
		if cells := strings.Split(strings.TrimSpace(line), "|"); len(cells) == 4 {
			rows[State(strings.TrimSpace(cells[1]))] = strings.TrimSpace(cells[2])
		}
	}
	for _, s := range States() {
		var names []string
		for _, n := range s.Next() {
			names = append(names, string(n))
		}
		want := strings.Join(names, ", ")
		if want == "" {
			want = "–"
		}
		if rows[s] != want {
			t.Errorf("docs/lifecycle.md says %s may become %q, the map says %q", s, rows[s], want)
		}
	}
}

func TestDeleteIsPossibleFromEveryState(t *testing.T) {
	for _, s := range States() {
		if err := s.To(Deleted); err != nil && s != Deleted {
			t.Errorf("%s: %v", s, err)
		}
	}
	if err := Deleted.To(Running); KindOf(err) != Conflict || !strings.Contains(err.Error(), "deleted") || !strings.Contains(err.Error(), "running") {
		t.Errorf("a refusal names both states: %v", err)
	}
}

func TestSpecSaysWhatIsWrongAndWhatMayBe(t *testing.T) {
	for want, s := range map[string]Spec{
		"image":   {},
		"memory":  {Image: "base", MemoryMiB: 16},
		"cpus":    {Image: "base", CPUs: 1000},
		"disk":    {Image: "base", DiskMiB: 1},
		"accel":   {Image: "base", Accel: "magic"},
		"timeout": {Image: "base", Timeout: -1},
		"name":    {Image: "base", Name: "a\nb"},
		"env":     {Image: "base", Env: map[string]string{"1 2": "x"}},
	} {
		if _, err := s.Normal(); KindOf(err) != Invalid || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	s, err := Spec{Image: "base"}.Normal()
	if err != nil || s.CPUs != DefaultCPUs || s.MemoryMiB != DefaultMemoryMiB || s.DiskMiB != DefaultDiskMiB || s.Accel != Auto {
		t.Errorf("defaults are %+v, %v", s, err)
	}
}

func TestIDsAreParsedBack(t *testing.T) {
	for range 100 {
		id := NewID()
		if got, err := ParseID(string(id)); err != nil || got != id {
			t.Fatalf("ParseID(%q) = %q, %v", id, got, err)
		}
	}
	for _, bad := range []string{"", "w", "../../../etc/passwd12", "wAAAAAAAAAAAAAAAAAAAA", "xaaaaaaaaaaaaaaaaaaaa"} {
		if _, err := ParseID(bad); KindOf(err) != Invalid {
			t.Errorf("ParseID(%q) = %v", bad, err)
		}
	}
}
