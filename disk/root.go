package disk

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strconv"
)

// MakeRoot makes at path a plain ext4 of size bytes that holds the files of a
// directory. It is for small read-only roots of Dayfly's own; package image
// makes those of images.
func MakeRoot(ctx context.Context, path, tree string, size int64) error {
	bin, err := findMke2fs()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, mkfsTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, "-q", "-F", "-b", strconv.Itoa(BlockSize), "-m", "0", "-O", "none,extent,filetype,dir_index,ext_attr",
		"-E", "root_owner=0:0,nodiscard", "-d", tree, path, strconv.FormatInt(size/BlockSize, 10))
	cmd.Env = []string{"MKE2FS_CONFIG=/dev/null", "LC_ALL=C"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return createError(fmt.Errorf("mke2fs: %w: %s", err, bytes.TrimSpace(out[:min(len(out), maxComplain)])))
	}
	return nil
}
