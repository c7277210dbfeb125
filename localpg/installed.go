//go:build linux || darwin || freebsd

package localpg

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// distributions are the folders in which packages install Postgres without adding it to PATH.
var distributions = []string{
	"/usr/lib/postgresql/*/bin",                            // Debian
	"/usr/pgsql-*/bin",                                     // Red Hat
	"/opt/homebrew/opt/postgresql@*/bin",                   // Homebrew
	"/usr/local/opt/postgresql@*/bin",                      // Homebrew on Intel
	"/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",      // Homebrew on Linux
	"/Applications/Postgres.app/Contents/Versions/*.*/bin", // Postgres.app
}

// installed returns the folders that hold Postgres's binaries. If PG_BIN is set, it is that folder alone. Else it is
// the folder on PATH, and then those of packages, newest first.
func installed() ([]string, error) {
	if bin := os.Getenv("PG_BIN"); bin != "" {
		if !hasServer(bin) {
			return nil, fmt.Errorf("PG_BIN=%s holds no initdb and postgres", bin)
		}
		return []string{bin}, nil
	}
	var packaged []string
	for _, pattern := range distributions {
		found, _ := filepath.Glob(pattern) // fails only for a malformed pattern
		packaged = append(packaged, found...)
	}
	slices.SortStableFunc(packaged, func(a, b string) int { return pathVersion(b) - pathVersion(a) })

	folders := slices.DeleteFunc(append(onPath(), packaged...), func(dir string) bool { return !hasServer(dir) })
	if len(folders) == 0 {
		return nil, fmt.Errorf("initdb and postgres are %w from PG_BIN, PATH and the usual folders", errAbsent)
	}
	return folders, nil
}

// onPath returns the folder of the initdb on PATH. It follows links, because a folder on PATH can have links to some of
// the binaries only.
func onPath() []string {
	path, err := exec.LookPath("initdb")
	if err != nil {
		return nil
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return nil
	}
	return []string{filepath.Dir(path)}
}

func hasServer(dir string) bool {
	for _, name := range []string{"initdb", "postgres"} {
		if _, err := exec.LookPath(filepath.Join(dir, name)); err != nil {
			return false
		}
	}
	return filepath.IsAbs(dir)
}

var number = regexp.MustCompile(`\d+`)

// pathVersion returns the major version that a package's folder is named after.
func pathVersion(dir string) int {
	version, _ := strconv.Atoi(number.FindString(dir)) // without a number it is 0, the oldest
	return version
}

// majorVersion asks the binaries in a folder which Postgres they are.
func majorVersion(ctx context.Context, dir string) (string, error) {
	out, err := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask %s/postgres for its version: %w", dir, err)
	}
	return number.FindString(strings.TrimSpace(string(out))), nil
}
