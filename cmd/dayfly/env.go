package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
)

// maxEnvLine bounds one line of an environment file.
const maxEnvLine = 1 << 20

// environment puts together what -e and --env-file say. Files come first, in
// order; a later setting of a variable replaces an earlier one.
func environment(files, vars []string, lookup func(string) (string, bool)) (map[string]string, error) {
	env := map[string]string{}
	for _, path := range files {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("env-file: %w", err)
		}
		err = readEnv(f, env, lookup)
		_ = f.Close()
		if err != nil {
			return nil, fmt.Errorf("env-file: %s:%w", path, err)
		}
	}
	for _, v := range vars {
		if err := setVar(env, v, lookup); err != nil {
			return nil, fmt.Errorf("-e: %w", err)
		}
	}
	return env, nil
}

// readEnv reads lines as docker does: K=V, a K alone is the caller's own value,
// # begins a comment line, and quotes are part of the value. Its errors begin
// with the number of the line.
func readEnv(r io.Reader, env map[string]string, lookup func(string) (string, bool)) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxEnvLine)
	n := 0
	for lines.Scan() {
		n++
		line := lines.Text()
		if n == 1 {
			line = strings.TrimPrefix(line, "\ufeff") // a mark that Windows editors put first
		}
		line = strings.TrimLeft(line, " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		if err := setVar(env, line, lookup); err != nil {
			return fmt.Errorf("%d: %w", n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%d: %w", n+1, err)
	}
	return nil
}

// setVar takes K=V, or K for the caller's own variable, which may be unset.
func setVar(env map[string]string, v string, lookup func(string) (string, bool)) error {
	name, value, given := strings.Cut(v, "=")
	if name == "" || strings.ContainsAny(name, " \t\x00") || strings.ContainsRune(value, 0) {
		return fmt.Errorf("%q is not NAME=VALUE", v)
	}
	if !given {
		if value, given = lookup(name); !given {
			return nil
		}
	}
	env[name] = value
	return nil
}
