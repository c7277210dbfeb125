//go:build linux || darwin || freebsd

package localpg_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/tidemark-es/tidemark/localpg"
)

func TestDirKeepsTheCluster(t *testing.T) {
	t.Parallel()
	config := &localpg.Config{URLVar: noURL, Dir: filepath.Join(openFolder(t), "cluster")}
	server := start(t, config)
	left := traces(t, server.URL())
	query(t, server.URL(), "create table kept as select 'data' as value; select ''")
	stop(t, server)
	if what := left(); what != "" {
		t.Errorf("after Stop: %s", what)
	}

	// Once more, first after a stop and then after a crash of the owner.
	h := startHelper(t, "exit", config.Dir, testBinary(t), nil)
	if got := query(t, h.url, "select value from kept"); got != "data" {
		t.Errorf("after a stop: %q", got)
	}
	if err := h.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.end()
	if got := query(t, start(t, config).URL(), "select value from kept"); got != "data" {
		t.Errorf("after a crash: %q", got)
	}
}

func TestDirHasOneUser(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(openFolder(t), "cluster")
	h := startHelper(t, "exit", dir, testBinary(t), nil)
	_, err := localpg.Start(t.Context(), &localpg.Config{URLVar: noURL, Dir: dir})
	want := fmt.Sprintf("%s is in use by process %d", dir, h.cmd.Process.Pid)
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("Start = %v, want %q", err, want)
	}
	query(t, h.url, "select 'not disturbed'")
	left := traces(t, h.url)
	h.end()
	awaitGone(t, left) // before the folder is removed
}

func TestStaleLockFile(t *testing.T) {
	t.Parallel()
	config := &localpg.Config{URLVar: noURL, Dir: filepath.Join(openFolder(t), "cluster")}
	server := start(t, config)
	if server.Source() != localpg.Local {
		t.Skip("in a container no other process can have the server's number")
	}
	stop(t, server)
	// The lock file that a crash leaves, with a number that another process has now.
	stale := fmt.Sprintf("%d\n%s/data\n1\n5432\n\n\n\n", os.Getppid(), config.Dir)
	if err := os.WriteFile(filepath.Join(config.Dir, "data", "postmaster.pid"), []byte(stale), 0o644); err != nil {
		t.Fatal(err)
	}
	query(t, start(t, config).URL(), "select 'up'")
}

func TestClusterOfAnotherVersion(t *testing.T) {
	t.Parallel()
	config := &localpg.Config{URLVar: noURL, Dir: filepath.Join(openFolder(t), "cluster")}
	server := start(t, config)
	if server.Source() != localpg.Local {
		t.Skip("the image says so itself")
	}
	stop(t, server)
	if err := os.WriteFile(filepath.Join(config.Dir, "data", "PG_VERSION"), []byte("9.6\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := localpg.Start(t.Context(), config)
	if err == nil || !strings.Contains(err.Error(), "was made by Postgres 9.6, but only") {
		t.Errorf("Start = %v, want the two versions", err)
	}
}
