package agent

import (
	"errors"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A file's metadata are its extended attributes below metadataPrefix; an
// upload carries them as headers below metadataHeader.
const (
	metadataPrefix = "user.e2b."
	metadataHeader = "X-Metadata-"

	maxXattrName  = 255      // the kernel's XATTR_NAME_MAX (linux/limits.h)
	maxXattrValue = 64 << 10 // XATTR_SIZE_MAX
	maxXattrList  = 64 << 10 // XATTR_LIST_MAX
)

// metadataOf reads an upload's metadata headers. Keys are lower case: HTTP
// does not keep the case of names.
func metadataOf(h http.Header) (map[string]string, error) {
	var out map[string]string
	for name, values := range h {
		key, ok := strings.CutPrefix(name, metadataHeader)
		if !ok {
			continue
		}
		key = strings.ToLower(key)
		value := values[len(values)-1]
		if key == "" || len(metadataPrefix)+len(key) > maxXattrName {
			return nil, refusal(http.StatusBadRequest, "metadata key \""+key+"\": use 1 to 246 characters")
		}
		if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) {
			return nil, refusal(http.StatusBadRequest, "metadata value of \""+key+"\": use printable ASCII")
		}
		if out == nil {
			out = make(map[string]string)
		}
		out[key] = value
	}
	return out, nil
}

// writeMetadata makes a file's metadata exactly this.
func writeMetadata(fd int, meta map[string]string) error {
	for _, name := range metadataNames(func(b []byte) (int, error) { return unix.Flistxattr(fd, b) }) {
		if _, keep := meta[name]; keep {
			continue
		}
		if err := unix.Fremovexattr(fd, metadataPrefix+name); err != nil && !errors.Is(err, unix.ENODATA) {
			return metadataError(err)
		}
	}
	for k, v := range meta {
		if err := unix.Fsetxattr(fd, metadataPrefix+k, []byte(v), 0); err != nil {
			return metadataError(err)
		}
	}
	return nil
}

func metadataError(err error) error {
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return refusal(http.StatusBadRequest, "metadata: the file system there keeps no extended attributes")
	case errors.Is(err, unix.E2BIG), errors.Is(err, unix.ERANGE):
		return refusal(http.StatusBadRequest, "metadata: too long for the file system there")
	case isFull(err):
		return refusal(http.StatusInsufficientStorage, "not enough disk space available for the metadata: file systems keep about 4 KiB of it per file")
	}
	return err
}

// readMetadata returns a file's metadata, nil where there is none.
func readMetadata(path string) map[string]string {
	names := metadataNames(func(b []byte) (int, error) { return unix.Llistxattr(path, b) })
	if len(names) == 0 {
		return nil
	}
	out := make(map[string]string, len(names))
	for _, name := range names {
		buf := make([]byte, 256)
		n, err := unix.Lgetxattr(path, metadataPrefix+name, buf)
		if errors.Is(err, unix.ERANGE) {
			buf = make([]byte, maxXattrValue)
			n, err = unix.Lgetxattr(path, metadataPrefix+name, buf)
		}
		if err == nil {
			out[name] = strings.ToValidUTF8(string(buf[:n]), "\uFFFD")
		}
	}
	return out
}

// metadataNames lists a file's metadata keys.
func metadataNames(list func([]byte) (int, error)) []string {
	buf := make([]byte, 512)
	n, err := list(buf)
	if errors.Is(err, unix.ERANGE) {
		buf = make([]byte, maxXattrList)
		n, err = list(buf)
	}
	if err != nil || n <= 0 {
		return nil
	}
	var out []string
	for _, name := range strings.Split(string(buf[:n]), "\x00") {
		if key, ok := strings.CutPrefix(name, metadataPrefix); ok && key != "" {
			out = append(out, key)
		}
	}
	slices.Sort(out)
	return out
}
