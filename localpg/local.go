//go:build linux || darwin || freebsd

package localpg

import (
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

//go:embed watchdog.sh
var runCluster string

// startLocal runs the Postgres installed on this machine.
func (c *Config) startLocal(ctx context.Context) (*Server, error) {
	folders, err := installed()
	if err != nil {
		return nil, err
	}
	return c.startCluster(ctx, Local, folders)
}

// startCluster runs the first of these folders' binaries that fits the cluster.
func (c *Config) startCluster(ctx context.Context, source Source, folders []string) (*Server, error) {
	runAs, err := serverUser()
	if err != nil {
		return nil, err
	}
	// A temporary cluster needs no checkpoint when it stops.
	home, bin, signal := c.privateFolder(runAs), folders[0], "QUIT"
	data := filepath.Join(home, "data")
	var lock *os.File
	if c.Dir != "" {
		kept, err := openDir(ctx, c.Dir, runAs)
		if err != nil {
			return nil, err
		}
		defer kept.lock.Close() // the watchdog has its own copy
		if bin, err = kept.pick(ctx, folders); err != nil {
			return nil, err
		}
		data, signal, lock, runAs = kept.data, "INT", kept.lock, kept.owner
	}
	args := append([]string{bin, home, data, signal, "-p", "5432", "-c", "listen_addresses="}, c.settings()...)
	w, err := watch(runCluster, args, runAs, lock)
	if err != nil {
		return nil, err
	}
	address := "postgres://postgres@/postgres?sslmode=disable&port=5432&host=" + url.QueryEscape(home)
	if err := awaitReady(ctx, address, w.ended); err != nil {
		if stopErr := w.stop(); stopErr != nil {
			err = stopErr
		}
		return nil, fmt.Errorf("start the Postgres in %s: %w", bin, err)
	}
	return &Server{url: address, source: source, stop: w.stop, done: w.done}, nil
}

// serverUser returns the user that the server runs as. For root it is postgres, or else nobody. For every other user it
// is nil: the server runs as that user.
func serverUser() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		account, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.ParseUint(account.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(account.Gid, 10, 32)
		if uidErr == nil && gidErr == nil && uid != 0 {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
		}
	}
	return nil, errors.New("running as root, which Postgres refuses, and there is no user postgres or nobody to run it as")
}

// privateFolder returns the name of a folder that the watchdog creates. The path of a unix socket must not be longer
// than about 100 bytes, and root's own temporary folder can be closed to the server's user: then the folder is in /tmp.
func (c *Config) privateFolder(runAs *syscall.Credential) string {
	base := os.TempDir()
	if folder := memoryFolder(); folder != "" && !c.Durable && c.Dir == "" {
		base = folder
	}
	if base == os.TempDir() && (runAs != nil || len(base) > 50 || !filepath.IsAbs(base)) {
		base = "/tmp"
	}
	return filepath.Join(base, "tidemark-pg-"+rand.Text()[:16])
}
