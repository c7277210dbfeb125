//go:build unix

package eventstore_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/internal/localpg"
)

// crashing is a Postgres of the test's own that can be killed and comes back with the same data. It
// comes back at another address, so connections are made by dial.
type crashing struct {
	config localpg.Config

	mu     sync.Mutex
	server *localpg.Server
}

// startCrashing starts the server, which the test's end stops.
func startCrashing(t *testing.T) *crashing {
	t.Helper()
	if forced := os.Getenv("TIDEMARK_POSTGRES"); forced != "" && forced != "local" && forced != "download" {
		t.Skipf("TIDEMARK_POSTGRES=%s, but only a server from local binaries can be killed", forced)
	}
	dir, err := os.MkdirTemp("/tmp", "tidemark-crash-") // where the server's user may go
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	c := &crashing{config: localpg.Config{
		URLVar:  "TIDEMARK_NO_URL", // never that of somebody else's server
		Durable: true,
		Dir:     filepath.Join(dir, "cluster"),
		// What was written survives the death of every process, if not that of the machine. All
		// else stays as it is in production: above all a commit waits until its WAL is written.
		Settings: map[string]string{"fsync": "off"},
	}}
	if c.server, err = localpg.Start(t.Context(), &c.config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.server.Stop() })
	if source := c.server.Source(); source != localpg.Local && source != localpg.Download {
		t.Skipf("there are no local binaries, and a server of source %q cannot be killed", source)
	}
	return c
}

func (c *crashing) url() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.server.URL()
}

// dial connects to where the server is now.
func (c *crashing) dial(ctx context.Context) (net.Conn, error) {
	address, err := url.Parse(c.url())
	if err != nil {
		return nil, err
	}
	query := address.Query()
	var dialer net.Dialer
	return dialer.DialContext(ctx, "unix", filepath.Join(query.Get("host"), ".s.PGSQL."+query.Get("port")))
}

// pool returns a pool whose connections are made by dial, which the test's end closes.
func (c *crashing) pool(t *testing.T, connections int32, dial func(context.Context) (net.Conn, error)) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(c.url())
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = connections
	config.ConnConfig.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// crash kills all processes of the server, whatever they are doing, and starts it again.
func (c *crashing) crash(ctx context.Context) error {
	if err := c.kill(); err != nil {
		return err
	}
	c.mu.Lock()
	killed := c.server
	c.mu.Unlock()
	<-killed.Done()
	_ = killed.Stop() // says that it was killed
	retry := time.NewTicker(10 * time.Millisecond)
	defer retry.Stop()
	for {
		// It is refused for as long as anything is left of the killed server.
		server, err := localpg.Start(ctx, &c.config)
		if err == nil {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.server = server
			return nil
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
	}
}

// kill sends SIGKILL to the server and to its children, who would otherwise finish what they do.
func (c *crashing) kill() error {
	content, err := os.ReadFile(filepath.Join(c.config.Dir, "data", "postmaster.pid"))
	if err != nil {
		return err
	}
	first, _, _ := strings.Cut(string(content), "\n")
	server, err := strconv.Atoi(first)
	if err != nil {
		return err
	}
	// While it stands still it has no new children, and the numbers of dead ones are not reused.
	if err := syscall.Kill(server, syscall.SIGSTOP); err != nil {
		return err
	}
	list, err := exec.Command("ps", "-A", "-o", "pid=,ppid=").Output()
	if err != nil {
		return errors.Join(fmt.Errorf("ps: %w", err), syscall.Kill(server, syscall.SIGKILL))
	}
	for line := range strings.Lines(string(list)) {
		var pid, parent int
		if _, err := fmt.Sscan(line, &pid, &parent); err == nil && parent == server {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
	}
	return syscall.Kill(server, syscall.SIGKILL)
}
