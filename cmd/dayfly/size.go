package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// mebibytes is a flag for an amount of memory or disk: 512M, 2G, 1.5GiB. It is
// rounded up to whole MiB, as a smaller size than asked for breaks things.
type mebibytes int

var units = []struct {
	suffixes []string
	mib      float64
}{
	{[]string{"k", "kb", "ki", "kib"}, 1.0 / 1024},
	{[]string{"m", "mb", "mi", "mib"}, 1},
	{[]string{"g", "gb", "gi", "gib"}, 1024},
	{[]string{"t", "tb", "ti", "tib"}, 1024 * 1024},
}

// Set reads s. A number without a unit is refused: docker takes it for bytes,
// others for MiB.
func (m *mebibytes) Set(s string) error {
	digits := strings.TrimRightFunc(s, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
	n, err := strconv.ParseFloat(digits, 64)
	if err != nil || strings.ContainsAny(digits, "eExXpPiInN_+") {
		return fmt.Errorf("%q is not a size: write one such as 512M or 2G", s)
	}
	unit := strings.ToLower(s[len(digits):])
	for _, u := range units {
		for _, suffix := range u.suffixes {
			if unit != suffix {
				continue
			}
			mib := math.Ceil(n * u.mib)
			if mib < 1 || mib > math.MaxInt32 {
				return fmt.Errorf("%q is out of range", s)
			}
			*m = mebibytes(mib)
			return nil
		}
	}
	if unit == "" {
		return fmt.Errorf("%q has no unit: write %sM or %sG", s, digits, digits)
	}
	return fmt.Errorf("%q is not a size: the units are K, M, G and T", s)
}

// String returns the size as a user would write it.
func (m *mebibytes) String() string {
	switch v := int(*m); {
	case v == 0:
		return ""
	case v%1024 == 0:
		return strconv.Itoa(v/1024) + "G"
	default:
		return strconv.Itoa(v) + "M"
	}
}

// Type is the word for the value in help texts.
func (m *mebibytes) Type() string { return "size" }
