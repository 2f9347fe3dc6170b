package host

import (
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// maxFile bounds what is read of a file: mountinfo of a busy host is the
// largest, with some 200 bytes a mount.
const maxFile = 1 << 20

// path is where a file of the host is.
func (h Host) path(name string) string {
	root := h.Root
	if root == "" {
		root = "/"
	}
	return filepath.Join(root, name)
}

// text reads a file without the space around its text. The error names no
// path: it is shown beside it.
func (h Host) text(name string) (string, error) {
	f, err := os.Open(h.path(name))
	if err != nil {
		return "", cause(err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return "", cause(err)
	}
	return strings.TrimSpace(string(b)), nil
}

func cause(err error) error {
	if e, ok := err.(*os.PathError); ok { //nolint:errorlint // as os makes it, not wrapped
		return e.Err
	}
	return err
}

// word reads a file that is empty if it cannot be read.
func (h Host) word(name string) string {
	s, err := h.text(name)
	if err != nil {
		return ""
	}
	return s
}

// number reads a file with one number that is not negative. Of several, as in
// files with one for each kind, it is the first.
func (h Host) number(name string) (int64, bool) {
	first, _, _ := strings.Cut(strings.ReplaceAll(h.word(name), "\t", " "), " ")
	n, err := strconv.ParseInt(first, 10, 64)
	return n, err == nil && n >= 0
}

// exists says whether there is such a file, whoever may read it.
func (h Host) exists(name string) bool {
	_, err := os.Lstat(h.path(name))
	return err == nil
}

// glob lists the files that fit a pattern below the root.
func (h Host) glob(pattern string) []string {
	found, err := filepath.Glob(h.path(pattern))
	if err != nil {
		return nil // the pattern is ours; a root with brackets fits nothing
	}
	names := make([]string, 0, len(found))
	for _, f := range found {
		rel, err := filepath.Rel(h.path(""), f)
		if err == nil {
			names = append(names, rel)
		}
	}
	return names
}

// chosen is the word in brackets of a file such as "always [madvise] never".
func chosen(s string) string {
	for _, w := range strings.Fields(s) {
		if len(w) > 2 && w[0] == '[' && w[len(w)-1] == ']' {
			return w[1 : len(w)-1]
		}
	}
	return ""
}

// field is the value of a line "Name:  value" as in /proc/self/status,
// /proc/meminfo and /proc/cpuinfo. Of several it is the first.
func field(text, name string) string {
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(line, ":")
		if ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// kib is a field of /proc/meminfo, in KiB.
func kib(meminfo, name string) int64 {
	n, err := strconv.ParseInt(strings.TrimSuffix(field(meminfo, name), " kB"), 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// release is the first two numbers of a kernel's release, such as 6.12.
func release(s string) (major, minor int) {
	a, rest, _ := strings.Cut(s, ".")
	end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	if end >= 0 {
		rest = rest[:end]
	}
	major, err := strconv.Atoi(a)
	if err != nil {
		return 0, 0
	}
	minor, err = strconv.Atoi(rest)
	if err != nil {
		return major, 0
	}
	return major, minor
}

// atLeast says whether the host's kernel is that new.
func (h Host) atLeast(major, minor int) bool {
	a, b := release(h.word("proc/sys/kernel/osrelease"))
	return a > major || a == major && b >= minor
}

// count is how many CPUs a list such as 0-3,8 has.
func count(list string) int {
	const most = 1 << 16 // more than Linux takes; a wrong list is none
	n := 0
	for part := range strings.SplitSeq(list, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(part), "-")
		a, err := strconv.Atoi(first)
		if err != nil {
			return 0
		}
		b := a
		if isRange {
			if b, err = strconv.Atoi(last); err != nil {
				return 0
			}
		}
		if a < 0 || b < a || b >= most {
			return 0
		}
		n += b - a + 1
	}
	return n
}
