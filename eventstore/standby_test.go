package eventstore_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/localpg"
	"github.com/tidemark-es/tidemark/migrations"
)

// TestStandby: locks are not replicated, so a standby does not know the tidemark and says so.
// With Config.Stale, streams can be read there.
func TestStandby(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("/tmp", "tidemark-standby-") // a folder that the server's user can enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cluster := filepath.Join(dir, "cluster")

	primary := startServer(t, cluster)
	if primary.Source() != localpg.Local {
		t.Skip("only a server from local binaries can be made a standby here")
	}
	pool := connect(t, primary.URL())
	if err := migrations.Up(t.Context(), pool, nil); err != nil {
		t.Fatal(err)
	}
	store, err := eventstore.New(pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, store, "a", eventstore.NoStream)
	pool.Close()
	if err := primary.Stop(); err != nil {
		t.Fatal(err)
	}

	if err := os.WriteFile(filepath.Join(cluster, "data", "standby.signal"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	store, err = eventstore.New(connect(t, startServer(t, cluster).URL()), &eventstore.Config{Stale: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Tidemark(t.Context()); !errors.Is(err, eventstore.ErrNoTidemark) {
		t.Errorf("tidemark: %v, want ErrNoTidemark", err)
	}
	if err := firstErr(store.Read(t.Context(), stream("a"), eventstore.ReadOptions{})); err != nil {
		t.Errorf("read a stream: %v", err)
	}
}

// startServer starts a server for the test, with its cluster in dir.
func startServer(t *testing.T, dir string) *localpg.Server {
	t.Helper()
	server, err := localpg.Start(t.Context(), &localpg.Config{URLVar: "TEST_DATABASE_URL", Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Stop() })
	return server
}

func connect(t *testing.T, url string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}
