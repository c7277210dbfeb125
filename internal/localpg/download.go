//go:build linux || darwin || freebsd

package localpg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

const (
	// downloadVersion is the Postgres that is fetched.
	downloadVersion = embeddedpostgres.V17
	// repositoryVar names the environment variable that holds the address of a
	// Maven repository to fetch it from.
	repositoryVar     = "TIDEMARK_POSTGRES_REPOSITORY"
	defaultRepository = "https://repo1.maven.org/maven2"
)

// startDownload fetches Postgres's binaries into the user's cache folder, unless
// they are there already, and runs them like installed ones.
func (c *Config) startDownload(ctx context.Context) (*Server, error) {
	if os.Geteuid() == 0 {
		return nil, fmt.Errorf("a download is %w: root fetches no binaries, run this as another user", errAbsent)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	cache = filepath.Join(cache, "tidemark", "postgres-"+string(downloadVersion))
	if err := fetch(ctx, cmp.Or(c.Logger, slog.Default()), cache); err != nil {
		return nil, fmt.Errorf("a download of Postgres %s is %w: %w", downloadVersion, errAbsent, err)
	}
	return c.startCluster(ctx, Download, []string{filepath.Join(cache, "bin")})
}

// fetch fills the cache folder, in one step: of several processes that fetch at
// the same time one wins, and all of them find the same.
func fetch(ctx context.Context, logger *slog.Logger, cache string) error {
	if hasServer(filepath.Join(cache, "bin")) {
		return nil
	}
	logger.InfoContext(ctx, "downloading Postgres, once", "version", downloadVersion, "into", cache)
	scratch, err := os.MkdirTemp("", "tidemark-download-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	data := filepath.Join(scratch, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		return err
	}
	// The library cannot be asked for the binaries alone, and a server that it
	// started would outlive us if we were killed. So it is given a cluster that
	// is none: it unpacks the binaries, fails to start it, and leaves the rest
	// to us.
	if err := os.WriteFile(filepath.Join(data, "PG_VERSION"), []byte(downloadVersion), 0o600); err != nil {
		return err
	}
	before := libraryLogs()
	err = embeddedpostgres.NewDatabase(embeddedpostgres.DefaultConfig().
		Version(downloadVersion).
		BinaryRepositoryURL(cmp.Or(os.Getenv(repositoryVar), defaultRepository)).
		Port(0).
		CachePath(scratch).
		RuntimePath(filepath.Join(scratch, "run")).
		DataPath(data).
		BinariesPath(cache).
		Logger(io.Discard)).Start()
	for _, path := range libraryLogs() {
		if !slices.Contains(before, path) {
			_ = os.Remove(path) // perhaps another process's, which misses nothing
		}
	}
	if hasServer(filepath.Join(cache, "bin")) {
		return nil
	}
	logger.InfoContext(ctx, "downloading Postgres, once", "version", downloadVersion, "into", cache)
	return cmp.Or(err, errors.New("the archive holds no initdb and postgres"))
}

// libraryLogs lists the logs that the library leaves when a start fails.
func libraryLogs() []string {
	found, _ := filepath.Glob(filepath.Join(os.TempDir(), "embedded_postgres_log*")) // the pattern is sound
	return found
}
