package kernel

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
)

// A Debian package is an ar archive whose member data.tar.* holds the files.
// Formats: deb(5) and ar(5).
const (
	arMagic      = "!<arch>\n"
	arHeaderSize = 60
	maxMembers   = 16 // a package has three
)

// openDebData finds the files of a Debian package: a tar stream that is valid
// until the next read of r.
func openDebData(r io.Reader) (*tar.Reader, error) {
	magic := make([]byte, len(arMagic))
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != arMagic {
		return nil, errors.New("not a Debian package")
	}
	for range maxMembers {
		name, size, err := arHeader(r)
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(name, "data.tar") {
			return openTar(name, io.LimitReader(r, size))
		}
		if _, err := io.CopyN(io.Discard, r, size+size&1); err != nil {
			return nil, errors.New("Debian package is cut short")
		}
	}
	return nil, errors.New("Debian package without files in it")
}

// arHeader reads one member's header; members begin at even offsets.
func arHeader(r io.Reader) (name string, size int64, err error) {
	b := make([]byte, arHeaderSize)
	if _, err := io.ReadFull(r, b); err != nil {
		return "", 0, errors.New("Debian package without files in it")
	}
	name = strings.TrimRight(string(b[:16]), " /")
	size, err = strconv.ParseInt(strings.TrimRight(string(b[48:58]), " "), 10, 64)
	if err != nil || size < 0 || string(b[58:]) != "`\n" {
		return "", 0, errors.New("damaged Debian package")
	}
	return name, size, nil
}

func openTar(name string, r io.Reader) (*tar.Reader, error) {
	r, err := decompress(name, r)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return tar.NewReader(r), nil
}

// decompress picks a decompressor by the ending of a file's name. What it
// returns needs no closing.
func decompress(name string, r io.Reader) (io.Reader, error) {
	switch path.Ext(name) {
	case ".xz":
		return newXZ(r)
	case ".zst":
		return newZstd(r)
	case ".gz":
		return gzip.NewReader(r)
	case ".tar", ".ko":
		return r, nil
	}
	return nil, fmt.Errorf("compression of %s is not known (xz, zst and gz are)", path.Base(name))
}
