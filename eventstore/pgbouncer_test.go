//go:build unix

package eventstore_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
)

// pooled returns a pool that connects through PgBouncer in transaction mode. PgBouncer has up to three connections to
// Postgres.
func pooled(t *testing.T) *pgxpool.Pool {
	t.Helper()
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		program, err = exec.LookPath("/usr/sbin/pgbouncer")
	}
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("PgBouncer is not installed: apt-get install pgbouncer")
		}
		t.Skip("PgBouncer is not installed")
	}
	config, err := pgxpool.ParseConfig(pgtest.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	behind := config.ConnConfig
	port := freePort(t)
	folder, err := os.MkdirTemp("", "pgbouncer")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	password := ""
	if behind.Password != "" {
		password = " password='" + behind.Password + "'"
	}
	settings := fmt.Sprintf(`
[databases]
%s = host=%s port=%d user=%s%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
`, behind.Database, behind.Host, behind.Port, behind.User, password, port)
	file := filepath.Join(folder, "pgbouncer.ini")
	if err := os.WriteFile(file, []byte(settings), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	command := exec.Command(program, file)
	command.SysProcAttr = as(t, behind.Host)
	log, err := os.Create(filepath.Join(folder, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	command.Stderr = log
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	})

	config.ConnConfig.Host, config.ConnConfig.Port = "127.0.0.1", uint16(port)
	config.ConnConfig.TLSConfig, config.ConnConfig.Fallbacks = nil, nil
	// Prepared statements belong to a session, and a client of this pooler has no session of its own.
	config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for pool.Ping(ctx) != nil {
		if ctx.Err() != nil {
			said, _ := os.ReadFile(log.Name())
			t.Fatalf("PgBouncer does not answer:\n%s", said)
		}
	}
	return pool
}

// as returns the user to run PgBouncer as, if this process is root: the owner of the server's socket. PgBouncer does
// not run as root.
func as(t *testing.T, socket string) *syscall.SysProcAttr {
	t.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	owner := syscall.Credential{Uid: 65534, Gid: 65534} // the user nobody
	if found, err := os.Stat(socket); err == nil {
		stat := found.Sys().(*syscall.Stat_t)
		owner.Uid, owner.Gid = stat.Uid, stat.Gid
	}
	return &syscall.SysProcAttr{Credential: &owner}
}

func freePort(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

// TestPgBouncer: writers and followers keep all guarantees through a pooler in transaction mode. The followers poll.
// With PollOnly they do not try to listen.
func TestPgBouncer(t *testing.T) {
	t.Parallel()
	pool := pooled(t)
	writer := another(t, pool, eventstore.Config{})
	const writers, each = 8, 20
	for _, pollOnly := range []bool{true, false} {
		reader := another(t, pool, eventstore.Config{PollOnly: pollOnly, PollInterval: 5 * time.Millisecond})
		start, err := writer.Tidemark(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var writing sync.WaitGroup
		for w := range writers {
			writing.Go(func() {
				for n := range each {
					mustAppend(t, writer, fmt.Sprint(pollOnly, w), eventstore.Version(n))
				}
			})
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		versions := make(map[eventstore.StreamID]eventstore.Version)
		seen := 0
		for event, err := range reader.Follow(ctx, start, eventstore.Filter{}) {
			if err != nil {
				t.Fatalf("poll only %v: after %d events: %v", pollOnly, seen, err)
			}
			if versions[event.Stream]++; event.Version != versions[event.Stream] {
				t.Errorf("version %d of %s came as number %d", event.Version, event.Stream, versions[event.Stream])
			}
			if seen++; seen == writers*each {
				break
			}
		}
		writing.Wait()
	}
}
