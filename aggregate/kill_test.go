//go:build unix

package aggregate_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/aggregate"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
	"github.com/tidemark-es/tidemark/snapshot"
)

// killURL is an environment variable. If it is set, the test's program runs untilKilled instead of the tests.
const killURL = "TIDEMARK_TEST_KILL_URL"

func TestMain(m *testing.M) {
	if url := os.Getenv(killURL); url != "" {
		fmt.Fprintln(os.Stderr, untilKilled(url))
		os.Exit(1)
	}
	pgtest.Main(m)
}

// killing is a snapshot store that kills the process when the first snapshot is saved.
type killing struct{ snapshot.Store }

func (killing) Save(context.Context, ...snapshot.Snapshot) error {
	return syscall.Kill(os.Getpid(), syscall.SIGKILL)
}

// untilKilled updates a counter until the process is killed, and prints the versions of acknowledged updates.
func untilKilled(url string) error {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return err
	}
	events, err := eventstore.New(pool, nil)
	if err != nil {
		return err
	}
	snapshots, err := snapshot.NewPostgres(pool, nil)
	if err != nil {
		return err
	}
	repo := made(aggregate.NewRepository(events, counters, &aggregate.Config{
		Snapshots: made(snapshot.NewSnapshotter(killing{snapshots}, &snapshot.Config{Policy: snapshot.Every(10)})), CacheSize: 1,
	}))
	decide := limit(1_000_000)
	for {
		receipt, err := repo.Update(ctx, "a", decide)
		if err != nil {
			return err
		}
		fmt.Println(receipt.Version)
		decide = add(1)
	}
}

// TestKilledBeforeSnapshot: a process is killed between an append and its snapshot. All updates that it acknowledged
// are stored. The next process continues from there and takes the snapshot.
func TestKilledBeforeSnapshot(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	command := exec.CommandContext(t.Context(), os.Args[0])
	command.Env = append(os.Environ(), killURL+"="+url)
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err == nil || command.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("it ended by itself: %v\n%s", err, &stderr)
	}
	var acknowledged eventstore.Version
	for lines := bufio.NewScanner(&stdout); lines.Scan(); {
		if _, err := fmt.Sscan(lines.Text(), &acknowledged); err != nil {
			t.Fatal(err)
		}
	}
	if acknowledged < 9 {
		t.Fatalf("it was killed at version %d, before the snapshot was due", acknowledged)
	}
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	events, err := eventstore.New(pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	snapshots, err := snapshot.NewPostgres(pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	k := kept{&counting{Store: events}, snapshots, pool}
	if _, ok := saved(t, k, "a"); ok {
		t.Fatal("there is a snapshot: it was killed too late")
	}
	repo, _, _ := k.repository(t, snapshot.Config{Policy: snapshot.Every(10), Sync: true}, 0)
	loaded := checkLoad(t, k, repo, "a")
	if loaded.Version < acknowledged || loaded.State.Value != int(loaded.Version)-1 {
		t.Errorf("loaded %+v at version %d, but version %d was acknowledged", loaded.State, loaded.Version, acknowledged)
	}
	if last, ok := saved(t, k, "a"); !ok || last.Version != loaded.Version {
		t.Errorf("the snapshot is of version %d, %t; want %d", last.Version, ok, loaded.Version)
	}
}
