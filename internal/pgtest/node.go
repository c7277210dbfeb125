//go:build unix

package pgtest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
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

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/localpg"
)

// Node is a Postgres server of a test's own, which the test can stop, kill, copy and promote. Its address stays the
// same for the time of the test: a [Gate] forwards connections to the server's present socket. Methods may be called
// from any goroutine, but two that start or end the server must not overlap.
type Node struct {
	Gate   *Gate
	dir    string
	config localpg.Config

	mu     sync.Mutex
	server *localpg.Server // nil while it does not run
}

// NewNode starts a primary with an empty database "postgres". The test's end stops it. The test is skipped if the only
// server, or the one that TIDEMARK_POSTGRES forces, is one that a test cannot kill.
func NewNode(t testing.TB, settings map[string]string) *Node {
	t.Helper()
	n := newNode(t, settings)
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	if source := n.server.Source(); source != localpg.Local && source != localpg.Download {
		t.Skipf("there are no local binaries, and a server of source %q cannot be killed", source)
	}
	return n
}

// newNode prepares a node without data.
func newNode(t testing.TB, settings map[string]string) *Node {
	t.Helper()
	if forced := os.Getenv("TIDEMARK_POSTGRES"); forced != "" && forced != "local" && forced != "download" {
		t.Skipf("TIDEMARK_POSTGRES=%s, but only a server from local binaries can be killed", forced)
	}
	dir, err := os.MkdirTemp("/tmp", "tidemark-node-") // the server's user may enter /tmp
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	n := &Node{dir: filepath.Join(dir, "cluster"), config: localpg.Config{
		URLVar:  "TIDEMARK_NO_URL", // never a server that is in use
		Durable: true,
		Dir:     filepath.Join(dir, "cluster"),
		// Without fsync, written data survive the death of every process, but not the death of the machine.
		Settings: map[string]string{"fsync": "off", "wal_retrieve_retry_interval": "100ms"},
	}}
	maps.Copy(n.config.Settings, settings)
	n.Gate = NewGate(t, n.Socket)
	t.Cleanup(func() { _ = n.Stop() })
	return n
}

// URL returns a connection string that stays the same when the server is started again.
func (n *Node) URL() string { return URLOf("", n) }

// URLOf returns a connection string over several nodes, with target_session_attrs unless that is empty.
func URLOf(attrs string, nodes ...*Node) string {
	var hosts []string
	for _, n := range nodes {
		hosts = append(hosts, n.Gate.Address())
	}
	address := "postgres://postgres@" + strings.Join(hosts, ",") + "/postgres?sslmode=disable"
	if attrs != "" {
		address += "&target_session_attrs=" + attrs
	}
	return address
}

// Socket returns the present unix socket of the server, for a gate that a test makes itself.
func (n *Node) Socket() (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.server == nil {
		return "", errors.New("the server does not run")
	}
	address, err := url.Parse(n.server.URL())
	if err != nil {
		return "", err
	}
	query := address.Query()
	return filepath.Join(query.Get("host"), ".s.PGSQL."+query.Get("port")), nil
}

// Dial connects to the present socket of the server, past the gate.
func (n *Node) Dial(ctx context.Context) (net.Conn, error) {
	socket, err := n.Socket()
	if err != nil {
		return nil, err
	}
	var dialer net.Dialer
	return dialer.DialContext(ctx, "unix", socket)
}

// Start starts the server and returns when it accepts connections. A standby accepts connections that only read.
func (n *Node) Start() error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	retry := time.NewTicker(10 * time.Millisecond)
	defer retry.Stop()
	for {
		// The start is refused while anything is left of a killed server.
		server, err := localpg.Start(ctx, &n.config)
		if err == nil {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.server = server
			return nil
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
	}
}

// take returns the running server. From then on the node has no server.
func (n *Node) take() *localpg.Server {
	n.mu.Lock()
	defer n.mu.Unlock()
	server := n.server
	n.server = nil
	return server
}

// Stop ends the server as an administrator does: open transactions are rolled back, and standbys receive all commits.
// Stop does nothing to a node that does not run.
func (n *Node) Stop() error {
	if server := n.take(); server != nil {
		return server.Stop()
	}
	return nil
}

// Kill sends SIGKILL to all processes of the server, whatever they are doing.
func (n *Node) Kill() error {
	server := n.take()
	if server == nil {
		return nil
	}
	if err := n.signalAll(); err != nil {
		return errors.Join(err, server.Stop())
	}
	<-server.Done()
	_ = server.Stop() // the error says that the server was killed
	return nil
}

// signalAll kills the server and its children. The children would otherwise finish their work.
func (n *Node) signalAll() error {
	content, err := os.ReadFile(filepath.Join(n.data(), "postmaster.pid"))
	if err != nil {
		return err
	}
	first, _, _ := strings.Cut(string(content), "\n")
	server, err := strconv.Atoi(first)
	if err != nil {
		return err
	}
	// A stopped server starts no children. It does not collect dead ones either, so their numbers are not reused.
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
			_ = syscall.Kill(pid, syscall.SIGKILL) // the child may have ended
		}
	}
	return syscall.Kill(server, syscall.SIGKILL)
}

func (n *Node) data() string { return filepath.Join(n.dir, "data") }

// Standby starts a streaming standby of this node, which must be running. A name that is not empty is the name of the
// standby in the primary's synchronous_standby_names.
func (n *Node) Standby(t testing.TB, name string, settings map[string]string) *Node {
	t.Helper()
	standby := newNode(t, settings)
	if err := n.backup(standby); err != nil {
		t.Fatal(err)
	}
	if err := standby.Demote(n, name); err != nil {
		t.Fatal(err)
	}
	if err := standby.Start(); err != nil {
		t.Fatal(err)
	}
	return standby
}

// AwaitStandby makes each commit wait for a synchronous standby that does not exist, until release is called.
func (n *Node) AwaitStandby(t testing.TB) (release func()) {
	t.Helper()
	pool := Connect(t, n.URL(), func(*pgxpool.Config) {})
	do := func(sql string) {
		if _, err := pool.Exec(context.Background(), sql); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	}
	do(`alter system set synchronous_standby_names = 'away'`)
	do(`select pg_reload_conf()`)
	Until(t, timeout, "commits wait for a standby", func() bool { return n.awaits(t, pool) }) // the server needs some time to reload
	return sync.OnceFunc(func() {
		do(`alter system set synchronous_standby_names = ''`)
		do(`select pg_reload_conf()`)
	})
}

// awaits reports whether a commit waits for a standby. It cancels that commit.
func (n *Node) awaits(t testing.TB, pool *pgxpool.Pool) bool {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = pool.Exec(ctx, `select pg_logical_emit_message(true, 'test', '')`)
	}()
	defer func() { cancel(); <-done }()
	for {
		select {
		case <-done:
			return false
		case <-time.After(5 * time.Millisecond):
		}
		var waits bool
		if err := pool.QueryRow(ctx, `select exists (select from pg_stat_activity where wait_event = 'SyncRep')`).Scan(&waits); err != nil {
			t.Fatal(err)
		}
		if waits {
			return true
		}
	}
}

// Demote prepares a node that does not run: from its next start on it is the standby of primary.
func (n *Node) Demote(primary *Node, name string) error {
	host, port, _ := strings.Cut(primary.Gate.Address(), ":")
	info := fmt.Sprintf("host=%s port=%s user=postgres sslmode=disable application_name=%s", host, port, name)
	config := "primary_conninfo = '" + info + "'\nrecovery_target_timeline = 'latest'\n"
	auto := filepath.Join(n.data(), "postgresql.auto.conf")
	return errors.Join(write(auto, config), write(filepath.Join(n.data(), "standby.signal"), ""))
}

// write replaces a file, and gives it the owner of its folder.
func write(path, content string) error {
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		return err
	}
	info, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return err
	}
	return chownLike(info, path)
}

// Promote makes a standby a primary and returns when it accepts writes.
func (n *Node) Promote(ctx context.Context) error {
	return n.do(ctx, func(conn *pgx.Conn) error {
		var promoted bool
		if err := conn.QueryRow(ctx, `select pg_promote(true, 60)`).Scan(&promoted); err != nil {
			return err
		}
		if !promoted {
			return errors.New("the standby was not promoted within a minute")
		}
		return nil
	})
}

// Exec executes a statement on the node itself, past its [Gate].
func (n *Node) Exec(ctx context.Context, sql string, args ...any) error {
	return n.do(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, sql, args...)
		return err
	})
}

// do runs a function with a connection past the gate.
func (n *Node) do(ctx context.Context, f func(*pgx.Conn) error) error {
	n.mu.Lock()
	server := n.server
	n.mu.Unlock()
	if server == nil {
		return errors.New("the server does not run")
	}
	conn, err := pgx.Connect(ctx, server.URL())
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	return f(conn)
}

// Save copies the data of a node that does not run to a folder. [Node.Restore] takes them back.
func (n *Node) Save(t testing.TB) (saved string) {
	t.Helper()
	saved = filepath.Join(t.TempDir(), "saved")
	if err := copyTree(n.data(), saved); err != nil {
		t.Fatal(err)
	}
	return saved
}

// Restore replaces the data of a node that does not run by a copy that [Node.Save] made: the log goes back to that
// state.
func (n *Node) Restore(saved string) error {
	if err := os.RemoveAll(n.data()); err != nil {
		return err
	}
	return copyTree(saved, n.data())
}

// backup copies the data of a running node. Postgres 15 changed the names of the functions. pg_basebackup is not used,
// because it is not part of every set of binaries.
func (n *Node) backup(to *Node) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return n.do(ctx, func(conn *pgx.Conn) error {
		var version int
		if err := conn.QueryRow(ctx, `select current_setting('server_version_num')::int`).Scan(&version); err != nil {
			return err
		}
		start, stop := `select pg_backup_start('test', true)`, `select labelfile from pg_backup_stop(false)`
		if version < 15_00_00 {
			start, stop = `select pg_start_backup('test', true, false)`, `select labelfile from pg_stop_backup(false, false)`
		}
		if _, err := conn.Exec(ctx, start); err != nil {
			return err
		}
		info, err := os.Stat(n.dir)
		if err != nil {
			return err
		}
		if err := errors.Join(os.MkdirAll(to.dir, 0o700), chownLike(info, to.dir)); err != nil {
			return err
		}
		if err := copyTree(n.data(), to.data()); err != nil {
			return err
		}
		var label string
		if err := conn.QueryRow(ctx, stop).Scan(&label); err != nil {
			return err
		}
		return errors.Join(write(filepath.Join(to.data(), "backup_label"), label), os.Remove(filepath.Join(to.data(), "postmaster.pid")))
	})
}

// copyTree copies a folder with its owners. Files that vanish during the copy are left out.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		err = copyEntry(path, filepath.Join(to, relative), entry)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
}

func copyEntry(from, to string, entry fs.DirEntry) error {
	info, err := entry.Info()
	if err != nil {
		return err
	}
	switch {
	case entry.IsDir():
		err = os.MkdirAll(to, info.Mode().Perm())
	case info.Mode().IsRegular():
		var content []byte
		if content, err = os.ReadFile(from); err == nil {
			err = os.WriteFile(to, content, info.Mode().Perm())
		}
	default:
		return nil
	}
	if err != nil {
		return err
	}
	return chownLike(info, to)
}

// chownLike gives a file the owner of another one. Only root can do this, and only root needs to.
func chownLike(info fs.FileInfo, path string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	stat := info.Sys().(*syscall.Stat_t)
	return os.Chown(path, int(stat.Uid), int(stat.Gid))
}
