package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/dayfly/dayfly"
	"github.com/dayfly/dayfly/client"
)

// app is the program: its surroundings, the flags every command has, and the
// server inside this process, if one was needed.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	lookupEnv      func(string) (string, bool)

	state, host, logLevel, keyFile, namespace string
	jail                                      string // of the server inside: on or off; empty: on for root
	vmm, firecracker                          string // likewise: see host

	at         *place                                              // where the server is, once that has been asked
	asked      bool                                                // there is a client of it, and it is not in this process
	everywhere bool                                                // in all namespaces, whatever the environment says
	newBackend func(dir string, log *slog.Logger) (backend, error) // what the server inside is made over
	own        *ownServer
}

func newApp() *app {
	return &app{
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
		lookupEnv: os.LookupEnv, newBackend: newHost,
	}
}

func (a *app) getenv(name string) string {
	v, _ := a.lookupEnv(name)
	return v
}

// run carries out a command line and returns the exit code.
func (a *app) run(args []string) int {
	root := a.root()
	root.SetArgs(args)
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	cmd, err := root.ExecuteC()
	if closeErr := a.close(); err == nil {
		err = closeErr
	}
	return a.exit(cmd, err)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "dayfly",
		Short: "A full Linux microVM per task, on your own machine",
		Long: `Dayfly boots a full Linux microVM per task: its own kernel, memory and
encrypted disk, from any OCI image, thrown away without a trace.`,
		Example: `  dayfly run base -- uname -a
  dayfly run -it base bash
  dayfly doctor`,
		SilenceErrors: true, SilenceUsage: true,
		Version: dayfly.Version,
	}
	a.jail, a.vmm, a.firecracker = a.getenv("DAYFLY_JAIL"), a.getenv("DAYFLY_VMM"), a.getenv("DAYFLY_FIRECRACKER")
	flags := root.PersistentFlags()
	flags.StringVar(&a.state, "state", a.defaultState(), "`DIR` of images, kernels and workspaces [DAYFLY_STATE]")
	flags.StringVar(&a.host, "host", "", "`ADDRESS` of a server, unix:///path, http://host:port or https://host:port; none: one inside this process; also --server [DAYFLY_SERVER, DAYFLY_HOST]")
	flags.StringVar(&a.keyFile, "key-file", "", "`FILE` with the API key [DAYFLY_API_KEY has the key itself]")
	flags.StringVar(&a.logLevel, "log-level", "warn", "`LEVEL` of what is logged to stderr: debug, info, warn or error")
	_ = root.RegisterFlagCompletionFunc("log-level", cobra.FixedCompletions([]string{"debug", "info", "warn", "error"}, cobra.ShellCompDirectiveNoFileComp))
	root.SetGlobalNormalizationFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "server" {
			name = "host"
		}
		return pflag.NormalizedName(name)
	})
	root.SetFlagErrorFunc(wrongUsage)
	root.AddCommand(
		a.runCommand(), a.createCommand(), a.execCommand(), a.shellCommand(), a.cpCommand(), a.lsCommand(), a.getCommand(),
		a.updateCommand(), a.rmCommand(), a.startCommand(), a.stopCommand(), a.restartCommand(), a.keepAliveCommand(),
		a.logsCommand(), a.eventsCommand(), a.topCommand(), a.tokenCommand(), a.pauseCommand(), a.resumeCommand(), a.forkCommand(), a.rollbackCommand(), a.snapshotCommand(),
		a.imageCommand(), a.kernelCommand(), a.systemCommand(), a.doctorCommand(), a.setupCommand(), a.benchCommand(), a.serveCommand(), a.versionCommand(),
		a.loginCommand(), a.logoutCommand(), a.keyCommand(), a.nsCommand(), a.quotaCommand(), a.webhookCommand(), a.auditCommand(),
	)
	a.namespaceFlags(root)
	return root
}

// defaultState is where the state is unless a flag says otherwise.
func (a *app) defaultState() string {
	if dir := a.getenv("DAYFLY_STATE"); dir != "" {
		return dir
	}
	if os.Geteuid() == 0 {
		return "/var/lib/dayfly"
	}
	if dir := a.getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "dayfly")
	}
	return filepath.Join(a.getenv("HOME"), ".local", "state", "dayfly")
}

// inside says whether the server is in this process, so that machines end with it.
func (a *app) inside() bool { return a.own != nil }

func (a *app) close() error {
	if a.own == nil {
		return nil
	}
	return a.own.Close()
}

func (a *app) logger() (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(strings.ToUpper(a.logLevel))); err != nil {
		return nil, dayfly.Errorf(dayfly.Invalid, "log level %q: use debug, info, warn or error", a.logLevel)
	}
	return slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: level})), nil
}

// file returns the file behind one of the app's streams, if there is one.
func file(stream any) (*os.File, bool) {
	f, ok := stream.(*os.File)
	return f, ok
}

// withClient runs do with a client and a context that SIGINT and SIGTERM end.
func (a *app) withClient(cmd *cobra.Command, do func(context.Context, *client.Client) error) error {
	ctx, stop := interruptible(cmd.Context())
	defer stop()
	c, err := a.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	err = do(ctx, c)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
