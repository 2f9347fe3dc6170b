package store

import (
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dayfly/dayfly"
)

// The engines, as Store.Engine names them.
const (
	sqlite   = "sqlite"
	postgres = "postgres"
)

// address is where a database is.
type address struct {
	engine string
	path   string // of a SQLite file
	dsn    string // of PostgreSQL
	shown  string // for logs and errors: without password and options
}

// postgresOptions are what may stand behind the ? of a postgres URL. A password
// is not among them: its place is before the @, where it can be told from what
// may be shown.
var postgresOptions = map[string]bool{
	"application_name": true, "connect_timeout": true, "host": true, "port": true, "passfile": true,
	"search_path": true, "sslcert": true, "sslkey": true, "sslmode": true, "sslrootcert": true,
	"target_session_attrs": true,
}

const urlForms = "use sqlite:///path/to/file or postgres://user:password@host:port/database"

// parseURL reads an Options.URL. Its errors hold no part of a URL that does not
// parse, as a password may be anywhere in it.
func parseURL(text string) (address, error) {
	scheme, _, ok := strings.Cut(text, ":")
	if !ok {
		return address{}, dayfly.Errorf(dayfly.Invalid, "the database URL has no scheme: %s", urlForms)
	}
	switch scheme {
	case "sqlite":
		return parseSQLite(text)
	case "postgres", "postgresql":
		return parsePostgres(text)
	}
	return address{}, dayfly.Errorf(dayfly.Invalid, "the database URL has a scheme that is not known: %s", urlForms)
}

func parseSQLite(text string) (address, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return address{}, dayfly.Errorf(dayfly.Invalid, "the database URL cannot be read: %s", urlForms)
	case u.Host != "" || u.Opaque != "" || !filepath.IsAbs(u.Path) || strings.HasSuffix(u.Path, "/"):
		return address{}, dayfly.Errorf(dayfly.Invalid, "the database URL names no absolute path of a file: use sqlite:///path/to/file, with three slashes")
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return address{}, dayfly.Errorf(dayfly.Invalid, "the database URL has options or a user: a sqlite URL is a path and nothing else (write %%3F for a question mark)")
	case strings.ContainsRune(u.Path, 0):
		return address{}, dayfly.Errorf(dayfly.Invalid, "the database URL names a path with a NUL byte")
	}
	return address{engine: sqlite, path: filepath.Clean(u.Path), shown: "sqlite://" + filepath.Clean(u.Path)}, nil
}

func parsePostgres(text string) (address, error) {
	u, err := url.Parse(text)
	if err != nil || u.Opaque != "" || u.Fragment != "" {
		return address{}, dayfly.Errorf(dayfly.Invalid, "the database URL cannot be read (%%-escape what is special in the password): %s", urlForms)
	}
	options, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return address{}, dayfly.Errorf(dayfly.Invalid, "the options of the database URL cannot be read")
	}
	for name := range options {
		if !postgresOptions[name] {
			return address{}, dayfly.Errorf(dayfly.Invalid, "the database URL has an option that is not known: use %s",
				strings.Join(slices.Sorted(maps.Keys(postgresOptions)), ", "))
		}
	}
	if strings.Trim(u.Path, "/") == "" {
		return address{}, dayfly.Errorf(dayfly.Invalid, "the database URL names no database: %s", urlForms)
	}
	shown := url.URL{Scheme: postgres, Host: u.Host, Path: u.Path}
	if u.User != nil {
		shown.User = url.User(u.User.Username())
	}
	return address{engine: postgres, dsn: text, shown: shown.String()}, nil
}
