package main

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dayfly/dayfly/vmm/firecracker"
)

func (a *app) setupCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "setup", Short: "Install what this host lacks", Args: noArgs}
	cmd.AddCommand(a.setupFirecrackerCommand())
	return cmd
}

func (a *app) setupFirecrackerCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "firecracker",
		Short: "Install Firecracker, which runs machines on KVM",
		Long: `Install Firecracker from its public releases. What is fetched is installed only
if its SHA-256 is that of the release: version ` + pinned.version + ` is known, for another
one say it by --sha256. Where this host reaches no network, fetch the archive on
another one and name it by --archive.`,
		Example: `  dayfly setup firecracker
  dayfly setup firecracker --dir ~/bin --archive firecracker-v` + pinned.version + `-x86_64.tgz`,
		Args: noArgs,
	}
	var r release
	dir := cmd.Flags().String("dir", "/usr/local/bin", "install into `DIR`, which is best in the program path")
	cmd.Flags().StringVar(&r.version, "release", pinned.version, "install `VERSION`")
	cmd.Flags().StringVar(&r.sha256, "sha256", "", "`DIGEST` of the archive in hexadecimal (default: of the known release)")
	cmd.Flags().StringVar(&r.base, "from", firecrackerReleases, "fetch from `ADDRESS`, a copy of Firecracker's releases")
	cmd.Flags().StringVar(&r.archive, "archive", "", "take the archive from `FILE` and fetch nothing")
	cmd.RunE = func(c *cobra.Command, _ []string) error {
		if err := r.check(); err != nil {
			return wrongUsage(c, err)
		}
		ctx, stop := interruptible(c.Context())
		defer stop()
		err := a.setupFirecracker(ctx, r, *dir)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	return cmd
}

func (a *app) setupFirecracker(ctx context.Context, r release, dir string) error {
	path, err := r.install(ctx, dir)
	if err != nil {
		return err
	}
	version, err := firecracker.New(firecracker.Options{Binary: path}).Version(ctx)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.stdout, "firecracker %s is at %s\n", version, path)
	return err
}

// pinned is the release that is installed unless another one is asked for, and
// the SHA-256 of its archive as it was published beside it.
var pinned = release{
	version: "1.16.2",
	sha256:  "32e3cdcd4081f91fe2b024a266f57dcb3b4e5fec5033e0cb22467ad7f7820bda",
}

// firecrackerReleases is where Firecracker's releases are.
const firecrackerReleases = "https://github.com/firecracker-microvm/firecracker/releases"

var (
	releaseVersion = regexp.MustCompile(`^\d{1,4}\.\d{1,4}\.\d{1,4}$`)
	sha256Text     = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// check refuses what was asked for wrongly, and fills in what is known.
func (r *release) check() error {
	r.version, r.sha256 = strings.TrimPrefix(r.version, "v"), strings.ToLower(r.sha256)
	switch {
	case !releaseVersion.MatchString(r.version):
		return fmt.Errorf("--release %q: use a version such as %s", r.version, pinned.version)
	case r.sha256 == "" && r.version == pinned.version:
		r.sha256 = pinned.sha256
	case r.sha256 == "":
		return fmt.Errorf("--release %s: say what its archive is by --sha256: the release has it in %s.sha256.txt", r.version, r.archiveName())
	case !sha256Text.MatchString(r.sha256):
		return fmt.Errorf("--sha256 %q: use 64 hexadecimal digits", r.sha256)
	}
	return nil
}
