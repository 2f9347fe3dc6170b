package qemu

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/vmm"
)

// assemble finds out what drive i consists of, from what it was launched with,
// the uppermost nodes of all drives with how many lie below each, and the files
// of all nodes. A node is in the drive, or left over: from a layer that the last
// owner was about to push, or from those of a merge that has come to its end.
func assemble(i int, launched vmm.Drive, roots map[string]int, files map[string]string) (attached, error) {
	a := attach(i, launched)
	if len(launched.Below) == 0 {
		a.Path = files[a.node] // which SetDrive may have changed
	}
	root, depth := rootOf(i, roots)
	lowest, between := a.lowest()
	owned := a.pushed(i, files)
	if len(launched.Below) > 0 && files[driveNode(i)] != "" {
		owned = append(owned, layerOf{driveNode(i), launched.Path})
	}
	above := slices.IndexFunc(owned, func(l layerOf) bool { return l.node == root })
	if above < 0 && root == driveNode(i) && len(launched.Below) == 0 {
		above = len(owned) // the lowest layer itself
	}
	if above < 0 {
		depth = -1
	} else {
		a.stale, owned = nodes(owned[:above]), owned[above:]
	}
	switch {
	case depth == len(owned)+len(between):
	case depth == len(owned):
		between = nil // merged, before others were pushed
	case depth == 1 && len(owned) > 0:
		between, a.stale, owned = nil, append(a.stale, nodes(owned[1:])...), owned[:1]
	default:
		return attached{}, dayfly.Errorf(dayfly.Unavailable, "drive %d of the machine is not what it could be", i)
	}
	a.take(owned, append(between, lowest))
	for _, path := range append([]string{a.Path}, a.Below...) {
		if !filepath.IsAbs(path) {
			return attached{}, dayfly.Errorf(dayfly.Unavailable, "drive %d of the machine has no file", i)
		}
	}
	return a, nil
}

// rootOf is the uppermost node of drive i, and how many lie below it.
func rootOf(i int, roots map[string]int) (string, int) {
	for node, depth := range roots {
		if node == driveNode(i) || strings.HasPrefix(node, driveNode(i)+"-") {
			return node, depth
		}
	}
	return "", -1
}

// layerOf is a layer that ends only when QEMU is told to end its node.
type layerOf struct{ node, path string }

func nodes(layers []layerOf) (names []string) {
	for _, l := range layers {
		names = append(names, l.node)
	}
	return names
}

// lowest is the file that all of the drive lies over, and those between it and
// the uppermost that the drive was launched with.
func (a *attached) lowest() (path string, between []string) {
	n := len(a.Below)
	if n == 0 {
		return a.Path, nil
	}
	return a.Below[n-1], slices.Clone(a.Below[:n-1])
}

// pushed are the layers since the launch, the uppermost first.
func (a *attached) pushed(i int, files map[string]string) (layers []layerOf) {
	var serials []int
	for node := range files {
		text, ok := strings.CutPrefix(node, driveNode(i)+"-")
		n, err := strconv.Atoi(text)
		if ok && err == nil && n > len(a.Below) && node == layerNode(i, n) {
			serials = append(serials, n)
		}
	}
	slices.Sort(serials)
	for _, n := range slices.Backward(serials) {
		layers = append(layers, layerOf{layerNode(i, n), files[fileNode(layerNode(i, n))]})
		a.serial = max(a.serial, n)
	}
	return layers
}

// take makes the drive one of these layers over the others.
func (a *attached) take(owned []layerOf, below []string) {
	var paths []string
	for _, l := range owned {
		paths = append(paths, l.path)
	}
	paths = append(paths, below...)
	a.Path, a.Below = paths[0], nil
	if len(paths) > 1 {
		a.Below = paths[1:]
	}
	if len(owned) > 0 {
		a.node, a.owned = owned[0].node, nodes(owned[1:])
	}
}
