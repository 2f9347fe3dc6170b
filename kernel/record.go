package kernel

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dayfly/dayfly"
)

// Names inside a kernel's directory.
const (
	recordName  = "kernel.json"
	vmlinuxName = "vmlinux"
	modulesDir  = "modules"
	configName  = "config" // tuned kernels: the configuration they were compiled with
)

const recordVersion = 1

// record is kernel.json: what is known of one kernel. docs/formats/kernel-store.md.
type record struct {
	Version int `json:"version"`
	dayfly.Kernel
	Source    string    `json:"source"`            // file it came from, by name
	Digest    string    `json:"digest"`            // Import: of the package; Build: of everything the result depends on
	Recipe    string    `json:"recipe,omitempty"`  // Build: a digest of it; not noted by releases before
	Cmdline   []string  `json:"cmdline,omitempty"` // kernel parameters for this very kernel, besides its flavour's
	Modules   []string  `json:"modules,omitempty"` // file names in modules/, in load order
	CreatedAt time.Time `json:"created_at"`
}

// records returns every kernel of the store, the preferred one first. A
// directory that holds no valid record is an error: nothing half-made is ever
// published, so somebody damaged it.
func (s *Store) records(ctx context.Context) ([]record, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	dirs, err := os.ReadDir(s.kernels())
	if err != nil {
		return nil, fmt.Errorf("kernel: list: %w", err)
	}
	var recs []record
	for _, d := range dirs {
		rec, err := readRecord(filepath.Join(s.kernels(), d.Name()))
		if errors.Is(err, fs.ErrNotExist) && !d.IsDir() {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("kernel: record of %q: %w", d.Name(), err)
		}
		recs = append(recs, rec)
	}
	slices.SortFunc(recs, byPreference)
	if len(recs) > 0 {
		recs[0].Preferred = true
	}
	return recs, nil
}

func readRecord(dir string) (record, error) {
	b, err := os.ReadFile(filepath.Join(dir, recordName))
	if err != nil {
		return record{}, err
	}
	var rec record
	if err := json.Unmarshal(b, &rec); err != nil {
		return record{}, err
	}
	if rec.Version != recordVersion || rec.ID != filepath.Base(dir) {
		return record{}, fmt.Errorf("version %d of kernel %q", rec.Version, rec.ID)
	}
	return rec, nil
}

func writeRecord(dir string, rec record) error {
	rec.Version = recordVersion
	rec.Preferred = false // is decided when listing
	b, err := json.MarshalIndent(rec, "", "\t")
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, recordName), append(b, '\n'))
}

// byPreference sorts tuned before distribution, then new releases before old
// ones, then late before early, and never calls two kernels equal.
func byPreference(a, b record) int {
	return cmp.Or(
		-cmp.Compare(rank(a.Flavour), rank(b.Flavour)),
		-compareReleases(a.Release, b.Release),
		b.CreatedAt.Compare(a.CreatedAt),
		strings.Compare(a.ID, b.ID),
	)
}

func rank(flavour string) int {
	if flavour == Tuned {
		return 1
	}
	return 0
}

// compareReleases orders kernel releases: runs of digits by value, everything
// else as text, so that 6.12.9 comes before 6.12.10.
func compareReleases(a, b string) int {
	for a != "" && b != "" {
		var x, y string
		x, a = cutRun(a)
		y, b = cutRun(b)
		if isDigit(x[0]) && isDigit(y[0]) {
			x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
			if c := cmp.Compare(len(x), len(y)); c != 0 {
				return c
			}
		}
		if c := strings.Compare(x, y); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(a), len(b))
}

// cutRun splits s, which is not empty, after its first run of digits or of others.
func cutRun(s string) (run, rest string) {
	digits := isDigit(s[0])
	for i := range len(s) {
		if isDigit(s[i]) != digits {
			return s[:i], s[i:]
		}
	}
	return s, ""
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// validRelease reports whether a release is fit to be part of a file name.
func validRelease(r string) bool {
	const maxRelease = 64 // __NEW_UTS_LEN
	if r == "" || len(r) > maxRelease || !isDigit(r[0]) {
		return false
	}
	return strings.Trim(r, nameBytes+".+~_-") == ""
}

const nameBytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
