package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"
)

// maxConns is the size of a test's pool: enough for a test to compete with itself, and few enough for many tests at
// once.
const maxConns = 8

// timeout bounds each operation for a test. When its server does not answer, the test fails and does not hang.
const timeout = time.Minute

// running are the servers of this test binary. The server that every test shares has no URL. They live as long as the
// process. That is why the variable is global.
var running struct {
	sync.Mutex
	servers map[string]*attempt // by the URL that was asked for
}

// attempt is a server, or the reason why it could not be started.
type attempt struct {
	once   sync.Once
	server *server
	err    error
}

// serverAt returns the server with a URL. Without a URL it is the server that every test shares.
func serverAt(url string) (*server, error) {
	running.Lock()
	if running.servers == nil {
		running.servers = make(map[string]*attempt)
	}
	a := running.servers[url]
	if a == nil {
		a = &attempt{}
		running.servers[url] = a
	}
	running.Unlock()
	a.once.Do(func() { a.server, a.err = start(url) })
	return a.server, a.err
}

// Stop stops all servers of this test binary.
func Stop() error {
	running.Lock()
	defer running.Unlock()
	var errs []error
	for _, a := range running.servers {
		if a.server != nil {
			errs = append(errs, a.server.stop())
		}
	}
	clear(running.servers)
	return errors.Join(errs...)
}

// Main runs a package's tests and exits: it stops the server and fails if the
// tests left a goroutine behind.
func Main(m *testing.M) {
	before := goleak.IgnoreCurrent()
	code := m.Run()
	if err := Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	if code == 0 {
		if err := goleak.Find(before); err != nil {
			fmt.Fprintln(os.Stderr, "pgtest:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// Pool returns a pool of up to 8 connections to a fresh database with Tidemark's tables in it. At its end the test
// closes the pool, waits for connections that are still in use, and drops the database.
func Pool(t testing.TB) *pgxpool.Pool {
	t.Helper()
	return Connect(t, URL(t), func(c *pgxpool.Config) { c.MaxConns = maxConns })
}

// Connect returns a pool for url. A function adjust, unless it is nil, changes the configuration of the pool first. The
// test's end closes the pool.
func Connect(t testing.TB, url string, adjust func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	if adjust != nil {
		adjust(config)
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// URL returns the connection string of a fresh database with Tidemark's tables
// in it. The test's end drops the database.
func URL(t testing.TB) string {
	t.Helper()
	return database(t, "", (*server).migrated)
}

// URLAt is [URL] on the server that at names. The other databases of that server stay as they are.
func URLAt(t testing.TB, at string) string {
	t.Helper()
	return database(t, at, (*server).migrated)
}

// EmptyURL returns the connection string of a fresh database with nothing in
// it. The test's end drops the database.
func EmptyURL(t testing.TB) string {
	t.Helper()
	return database(t, "", (*server).empty)
}

// EmptyURLAt is [EmptyURL] on the server that at names.
func EmptyURLAt(t testing.TB, at string) string {
	t.Helper()
	return database(t, at, (*server).empty)
}

// database creates a database for the time of a test.
func database(t testing.TB, at string, create func(*server, context.Context) (string, error)) string {
	t.Helper()
	server, err := serverAt(at)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	name, err := create(server, ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		if err := server.drop(ctx, name); err != nil {
			t.Error(err)
		}
	})
	return server.urlOf(name)
}
