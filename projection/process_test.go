//go:build unix

package projection_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
	"github.com/tidemark-es/tidemark/migrations"
	"github.com/tidemark-es/tidemark/projection"
)

var soakFor = flag.Duration("soak", 3*time.Second, "how long the tests with several processes make trouble")

// processFixture is a database over which other processes run projections. This process only appends, waits and checks.
type processFixture struct {
	*fixture
	url    string
	runner *projection.Runner // does not run, but can wait and read the status
}

func setupProcesses(t *testing.T, address string) *processFixture {
	t.Helper()
	pool, err := pgxpool.New(context.Background(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	store, err := eventstore.New(pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	f := &processFixture{fixture: &fixture{T: t, pool: pool, store: store}, url: address}
	none := func(context.Context, pgx.Tx, eventstore.Event[counted]) {}
	if f.runner, err = projection.NewRunner(pool, store, quiet, processProjections(1, none, none)...); err != nil {
		t.Fatal(err)
	}
	return f
}

// load appends until ctx is done, each time a few events to some of the streams. It does not repeat a commit that
// fails, because check compares the read models with the log.
func (f *processFixture) load(ctx context.Context, writer uint64) {
	random := rand.New(rand.NewPCG(1, writer))
	for ctx.Err() == nil {
		var changes []eventstore.Change
		for range 1 + random.IntN(4) {
			draft, err := counting.Encode(counted{random.IntN(100)})
			if err != nil {
				f.Error(err)
				return
			}
			changes = append(changes, eventstore.Change{
				Stream: eventstore.StreamID{Category: "counter", Key: fmt.Sprint(random.IntN(40))}, Expected: eventstore.Any,
				Events: []eventstore.Draft{draft},
			})
		}
		if _, err := f.store.Commit(ctx, changes...); err != nil {
			time.Sleep(10 * time.Millisecond) // spares the processor while Postgres is down
		}
	}
}

// check waits until everything is handled, and compares the read models with the log.
func (f *processFixture) check() {
	f.Helper()
	var last eventstore.Position
	f.until("Postgres answers", func() bool {
		draft, err := counting.Encode(counted{1})
		if err != nil {
			f.Fatal(err)
		}
		receipt, err := f.store.Append(f.Context(), eventstore.StreamID{Category: "counter", Key: "last"}, eventstore.Any, draft)
		last = receipt.Position
		return err == nil
	})
	ctx, cancel := context.WithTimeout(f.Context(), 30*time.Second)
	defer cancel()
	if err := f.runner.Wait(ctx, last); err != nil {
		status, _ := f.runner.Status(f.Context()) // has more details, if Postgres answers
		f.Fatalf("%v; status: %+v", err, status)
	}
	f.checkTallies("handled")
	f.checkTallies("folded")
}

// TestStoppedProcess stops a process in the middle of a batch, until another process has taken over and has passed the
// same events. When the stopped process continues, nothing of its batch is stored.
func TestStoppedProcess(t *testing.T) {
	t.Parallel()
	for _, trap := range []string{"handler", "fold"} {
		t.Run(trap, func(t *testing.T) {
			t.Parallel()
			f := setupProcesses(t, pgtest.URL(t))
			stopped := startProcess(t, f.url, trap, 1)
			f.until("the process is there", func() bool { return f.shares(f.runner)[""] == 0 && len(f.shares(f.runner)) == 1 })
			f.appendKeys(20)
			draft, err := counting.Encode(counted{trapped})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.store.Append(t.Context(), eventstore.StreamID{Category: "counter", Key: "3"}, eventstore.Any, draft); err != nil {
				t.Fatal(err)
			}
			xid := stopped.trapped()
			if err := stopped.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			other := startProcess(t, f.url, "", 1)
			f.appendKeys(20)
			f.check() // the other process has passed the same events
			if _, err := stopped.stdin.Write([]byte("go on\n")); err != nil {
				t.Fatal(err)
			}
			if err := stopped.cmd.Process.Signal(syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			f.awaitShares(f.runner, 8, 8) // the stopped process has its share again
			if xid != "" {
				var status string
				if err := f.pool.QueryRow(t.Context(), `select pg_xact_status($1::xid8)`, xid).Scan(&status); err != nil || status != "aborted" {
					t.Errorf("the transaction of the process that was stopped: %s, %v; want aborted", status, err)
				}
			}
			f.checkTallies("handled")
			f.checkTallies("folded")
			f.appendKeys(20)
			f.check()
			if got := other.end(); got != "exit status 0" {
				t.Errorf("the other process ended with %q", got)
			}
			f.appendKeys(20)
			f.check()
			if got := stopped.end(); got != "exit status 0" {
				t.Errorf("the stopped process ended with %q", got)
			}
		})
	}
}

// TestKilledProcesses kills processes that run the same projections, one after another, while events are appended.
func TestKilledProcesses(t *testing.T) {
	t.Parallel()
	f := setupProcesses(t, pgtest.URL(t))
	makeProcessTrouble(t, f, 300*time.Millisecond, nil)
}

// TestRestartedPostgres kills processes too, and crashes Postgres now and then.
func TestRestartedPostgres(t *testing.T) {
	t.Parallel()
	node := pgtest.NewNode(t, nil)
	f := setupProcesses(t, node.URL())
	if err := migrations.Up(t.Context(), f.pool, nil); err != nil {
		t.Fatal(err)
	}
	makeProcessTrouble(t, f, 700*time.Millisecond, func() {
		if err := errors.Join(node.Kill(), node.Start()); err != nil {
			t.Fatal(err)
		}
	})
}

// TestRollingProcesses deploys version 2 of the projections, process by process, while events are appended. The
// processes of version 1 end, one of them by kill -9. Readers never see fewer rows or events than before.
func TestRollingProcesses(t *testing.T) {
	t.Parallel()
	f := setupProcesses(t, pgtest.URL(t))
	old := []*process{startProcess(t, f.url, "", 1), startProcess(t, f.url, "", 1)}
	live := func(version int) bool {
		var n int // of both projections
		err := f.pool.QueryRow(t.Context(), `select count(*) from tidemark.projections where phase = 'live' and version = $1`, version).Scan(&n)
		return err == nil && n == 2
	}
	f.until("version 1 is there", func() bool { return live(1) })
	f.appendKeys(400)
	f.check()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var running sync.WaitGroup
	for writer := range uint64(2) {
		running.Go(func() { f.load(ctx, writer) })
	}
	var reads atomic.Int64
	for _, table := range []string{"handled", "folded"} {
		running.Go(func() {
			rows, events := int64(0), int64(0)
			for ctx.Err() == nil {
				var r, e int64
				if err := f.pool.QueryRow(ctx, `select count(*), coalesce(sum(n), 0)::bigint from `+table).Scan(&r, &e); err != nil {
					if ctx.Err() == nil {
						t.Errorf("read %s: %v", table, err)
					}
					return
				}
				if r < max(rows, 1) || e < events {
					t.Errorf("%s had %d rows of %d events, and now has %d of %d", table, rows, events, r, e)
				}
				rows, events = r, e
				reads.Add(1)
			}
		})
	}
	young := []*process{startProcess(t, f.url, "", 2)}
	f.until("version 2 is registered", func() bool {
		var n int
		err := f.pool.QueryRow(t.Context(), `select count(*) from tidemark.projections where version = 2`).Scan(&n)
		return err == nil && n == 2
	})
	old[0].kill()
	young = append(young, startProcess(t, f.url, "", 2))
	f.until("readers see version 2", func() bool { return live(2) })
	if got := old[1].end(); got != "exit status 0" {
		t.Errorf("a process of version 1 ended with %q", got)
	}
	before := reads.Load()
	f.until("readers have read 20 times more", func() bool { return reads.Load() > before+20 })
	stop()
	running.Wait()
	f.check()
	for _, p := range young {
		if got := p.end(); got != "exit status 0" {
			t.Errorf("a process of version 2 ended with %q", got)
		}
	}
}

// makeProcessTrouble kills and replaces a process each period. If crash is given, it calls crash after every second
// kill.
func makeProcessTrouble(t *testing.T, f *processFixture, period time.Duration, crash func()) {
	t.Helper()
	var processes []*process
	for range 3 {
		processes = append(processes, startProcess(t, f.url, "", 1))
	}
	f.until("the processes are there", func() bool {
		var n int // counts processes, not projections: these can be stored before the first process runs
		err := f.pool.QueryRow(t.Context(), `select count(distinct owner) from tidemark.projection_members`).Scan(&n)
		return err == nil && n == 3
	})
	ctx, cancel := context.WithTimeout(t.Context(), *soakFor)
	defer cancel()
	var loading sync.WaitGroup
	for writer := range uint64(4) {
		loading.Go(func() { f.load(ctx, writer) })
	}
	random := rand.New(rand.NewPCG(3, 4))
	tick := time.NewTicker(period)
	defer tick.Stop()
	kills, crashes := 0, 0
	for ctx.Err() == nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
			continue
		}
		i := random.IntN(len(processes))
		processes[i].kill()
		processes[i] = startProcess(t, f.url, "", 1)
		kills++
		if crash != nil && kills%2 == 0 {
			crash()
			crashes++
		}
	}
	loading.Wait()
	f.check()
	t.Logf("%d events, %d processes killed, Postgres crashed %d times", len(f.log("counted")), kills, crashes)
	if kills == 0 || (crash != nil) != (crashes > 0) {
		t.Errorf("%d processes killed and %d crashes of Postgres: too few for this test to mean something", kills, crashes)
	}
	for _, p := range processes {
		if got := p.end(); got != "exit status 0" {
			t.Errorf("a process ended with %q", got)
		}
	}
}
