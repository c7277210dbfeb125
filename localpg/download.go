//go:build linux || darwin || freebsd

package localpg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	// versionVar names the environment variable that holds the major version to download.
	versionVar     = "TIDEMARK_POSTGRES_VERSION"
	defaultVersion = "17"
	// repositoryVar names the environment variable that holds the address of the Maven repository to download from.
	repositoryVar     = "TIDEMARK_POSTGRES_REPOSITORY"
	defaultRepository = "https://repo1.maven.org/maven2"
	// downloadTimeout bounds a download, so that it ends when the network is silent.
	downloadTimeout = 5 * time.Minute
)

// releases are the versions that can be downloaded. For each major version it is one that the repository holds for all
// systems.
var releases = map[string]string{
	"14": "14.18.0",
	"15": "15.13.0",
	"16": "16.9.0",
	"17": "17.5.0",
	"18": "18.3.0",
}

// startDownload downloads Postgres's binaries into a cache folder, unless they are there already. It runs them like
// installed ones.
func (c *Config) startDownload(ctx context.Context) (*Server, error) {
	major := cmp.Or(os.Getenv(versionVar), defaultVersion)
	release, ok := releases[major]
	if !ok {
		return nil, fmt.Errorf("%s=%s: want one of %s", versionVar, major,
			strings.Join(slices.Sorted(maps.Keys(releases)), ", "))
	}
	runAs, err := serverUser()
	if err != nil {
		return nil, err
	}
	d := download{
		release:    release,
		repository: cmp.Or(os.Getenv(repositoryVar), defaultRepository),
		runAs:      runAs,
		logger:     cmp.Or(c.Logger, slog.Default()),
	}
	if d.cache, err = cacheFolder(runtime.GOOS); err == nil {
		err = d.ensure(ctx)
	}
	if err != nil {
		return nil, absence{fmt.Errorf("the download of Postgres %s failed: %w", release, err)}
	}
	return c.startCluster(ctx, Download, []string{filepath.Join(d.folder(), "bin")})
}

// cacheFolder returns the folder for downloaded binaries. For root it is a folder of the system, because the user that
// the server runs as cannot enter root's own cache.
func cacheFolder(system string) (string, error) {
	if os.Geteuid() == 0 && os.Getenv("XDG_CACHE_HOME") == "" {
		if system == "darwin" {
			return "/Library/Caches/tidemark", nil
		}
		return "/var/cache/tidemark", nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("there is no folder to keep the binaries in: set XDG_CACHE_HOME: %w", err)
	}
	return filepath.Join(cache, "tidemark"), nil
}

// download is one release of Postgres's binaries in a cache folder.
type download struct {
	release    string
	repository string
	cache      string
	runAs      *syscall.Credential // the user that the server runs as; nil for our own
	logger     *slog.Logger
}

// folder is where the binaries are. It appears when they are complete.
func (d *download) folder() string { return filepath.Join(d.cache, "postgres-"+d.release) }

// ensure returns when the binaries are in the cache folder and run. Of several processes one downloads them, and the
// others wait.
func (d *download) ensure(ctx context.Context) error {
	if d.check(ctx) == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, downloadTimeout)
	defer cancel()
	if err := makeFolder(d.cache); err != nil {
		return err
	}
	unlock, err := d.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if d.check(ctx) == nil {
		return nil // another process has downloaded them in the meantime
	}
	d.logger.InfoContext(ctx, "downloading Postgres, once", "version", d.release, "into", d.folder())
	if err := d.fetch(ctx); err != nil {
		return err
	}
	return d.check(ctx)
}

// fetch replaces the binaries in the cache folder, in one step.
func (d *download) fetch(ctx context.Context) error {
	jar, err := fetchFile(ctx, jarURL(d.repository, d.release))
	if err != nil {
		return err
	}
	unfinished := d.folder() + ".new"
	if err := os.RemoveAll(unfinished); err != nil { // a killed process has left it
		return err
	}
	defer os.RemoveAll(unfinished)
	if err := unpackJar(jar, unfinished); err != nil {
		return fmt.Errorf("unpack it into %s: %w", unfinished, err)
	}
	_ = os.Chmod(d.folder(), 0o700)                  // so that it can be emptied; the folder may not exist
	if err := os.RemoveAll(d.folder()); err != nil { // the binaries in it do not run
		return err
	}
	return os.Rename(unfinished, d.folder())
}

// check returns nil if the binaries are there and run as the user of the server.
func (d *download) check(ctx context.Context) error {
	for _, name := range []string{"initdb", "postgres"} {
		path := filepath.Join(d.folder(), "bin", name)
		if out, err := d.run(ctx, path, "--version"); err != nil {
			return fmt.Errorf("%s does not run: %w: %s", path, err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

// run runs a program as the user of the server.
func (d *download) run(ctx context.Context, path string, args ...string) ([]byte, error) {
	for {
		cmd := exec.CommandContext(ctx, path, args...)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: d.runAs}
		out, err := cmd.CombinedOutput()
		// Another goroutine can start a process at the moment in which we have the file open for writing. Until that
		// process calls exec, it keeps our file open, and the file cannot be executed.
		if !errors.Is(err, syscall.ETXTBSY) || ctx.Err() != nil {
			return out, err
		}
	}
}

// lock lets one process at a time download. The operating system releases the lock when the process ends.
func (d *download) lock(ctx context.Context) (unlock func(), err error) {
	file, err := os.OpenFile(d.folder()+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	retry := time.NewTicker(20 * time.Millisecond)
	defer retry.Stop()
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { file.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			file.Close()
			return nil, err
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
			file.Close()
			return nil, fmt.Errorf("another process is still downloading the binaries: %w", ctx.Err())
		}
	}
}
