package projection_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// tally is a row that shows whether an event was left out, was folded twice, or was folded in another order.
type tally struct {
	Key   string `db:"key,key"`
	N     int64
	Chain int64
}

// chainSize is the modulus that keeps chains within a bigint, in Go and in SQL.
const chainSize = 1_000_000_007

func (t *tally) add(position eventstore.Position) {
	t.N++
	t.Chain = (t.Chain*31 + int64(position)) % chainSize
}

func tallyDDL(table string) string {
	return `create table {` + table + `} (key text primary key, n bigint not null, chain bigint not null)`
}

// tallyFold folds the events of a stream into its tally. It calls hook before each fold.
func tallyFold(hook func(eventstore.Event[counted])) projection.FoldSource[tally] {
	key := func(event eventstore.Event[counted]) string { return event.Stream.Key }
	return projection.Fold(counting, key, func(row *tally, event eventstore.Event[counted]) projection.Op {
		hook(event)
		row.add(event.Position)
		return projection.Put
	})
}

// checkTallies compares a table of tallies with a fold of the log from scratch.
func (f *fixture) checkTallies(table string) {
	f.Helper()
	want := make(map[string]tally)
	for event, err := range f.store.ReadAll(f.Context(), 0, eventstore.Filter{Types: []string{"counted"}}) {
		if err != nil {
			f.Fatal(err)
		}
		row := want[event.Stream.Key]
		row.Key = event.Stream.Key
		row.add(event.Position)
		want[row.Key] = row
	}
	rows, _ := f.pool.Query(f.Context(), `select key, n, chain from `+pgx.Identifier{table}.Sanitize())
	stored, err := pgx.CollectRows(rows, pgx.RowToStructByPos[tally])
	if err != nil {
		f.Fatal(err)
	}
	got := maps.Collect(func(yield func(string, tally) bool) {
		for _, row := range stored {
			if !yield(row.Key, row) {
				return
			}
		}
	})
	if diff := cmp.Diff(want, got); diff != "" {
		f.Errorf("%s differs from a fold of the log (-log +table):\n%s", table, diff)
	}
}

// When urlVar is set, the test binary is a process that runs the projections of processProjections over that database:
// see TestProcess. With trapVar the process waits in the middle of a batch.
const (
	urlVar  = "PROJECTION_TEST_PROCESS"
	trapVar = "PROJECTION_TEST_TRAP" // "handler" or "fold"
	// versionVar is the version of the projections.
	versionVar = "PROJECTION_TEST_VERSION"
)

// trapped is the number of the event at which a process with a trap waits.
const trapped = -1

const processLease = time.Second

// processProjections returns a projection with a handler and a table projection. Both keep the same tallies.
func processProjections(version int, inHandler, inFold func(context.Context, pgx.Tx, eventstore.Event[counted])) []*projection.Projection {
	options := &projection.Options{Version: version, Partitions: 8, Tables: []string{"handled"}, DDL: tallyDDL("handled")}
	handled := projection.New("handled", options, projection.On(counting, func(ctx context.Context, tx pgx.Tx, event eventstore.Event[counted]) error {
		_, err := tx.Exec(ctx, `
			insert into {handled} as t (key, n, chain)
			values ($1, 1, $2::bigint % $3)
			on conflict (key) do update set n = t.n + 1, chain = (t.chain * 31 + $2::bigint) % $3`,
			event.Stream.Key, event.Position, chainSize)
		if err == nil {
			inHandler(ctx, tx, event)
		}
		return err
	}))
	folded := projection.NewTable("folded", &projection.Options{Version: version, Partitions: 8, DDL: tallyDDL("folded")}, tallyFold(func(event eventstore.Event[counted]) {
		inFold(nil, nil, event)
	}))
	return []*projection.Projection{handled, folded}
}

// TestProcess is a process that other tests start. It ends when its standard input ends. A line on its standard input
// opens its trap.
func TestProcess(t *testing.T) {
	address := os.Getenv(urlVar)
	if address == "" {
		t.Skip("runs in processes that other tests start")
	}
	ctx, stop := context.WithCancel(context.Background())
	open := make(chan struct{})
	go func() {
		lines := bufio.NewScanner(os.Stdin)
		for once := sync.OnceFunc(func() { close(open) }); lines.Scan(); {
			once()
		}
		stop()
		time.AfterFunc(20*time.Second, func() { os.Exit(3) }) // even if something hangs
	}()
	trap := func(name string) func(context.Context, pgx.Tx, eventstore.Event[counted]) {
		return func(ctx context.Context, tx pgx.Tx, event eventstore.Event[counted]) {
			if os.Getenv(trapVar) != name || event.Data.N != trapped {
				return
			}
			xid := ""
			if tx != nil {
				_ = tx.QueryRow(ctx, `select pg_current_xact_id()::text`).Scan(&xid)
			}
			fmt.Printf("\ntrapped %s\n", xid)
			select {
			case <-open:
			case <-t.Context().Done():
			}
		}
	}
	version, err := strconv.Atoi(os.Getenv(versionVar))
	if err != nil {
		t.Fatal(err)
	}
	pool, err := pgxpool.New(ctx, address)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	store, err := eventstore.New(pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	config := *quiet
	config.Lease, config.BatchSize = processLease, 50
	config.MaxBackoff = 50 * time.Millisecond
	for ctx.Err() == nil {
		r, err := projection.NewRunner(pool, store, &config, processProjections(version, trap("handler"), trap("fold"))...)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Run(ctx); err != nil { // it fails while Postgres is down
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// process is another process that runs TestProcess.
type process struct {
	*testing.T
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Scanner
}

// startProcess starts a process over a database. The process is killed when the test ends, and ends by itself when this
// process ends.
func startProcess(t *testing.T, address, trap string, version int) *process {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-test.run=^TestProcess$")
	cmd.Env = append(os.Environ(), urlVar+"="+address, trapVar+"="+trap, fmt.Sprint(versionVar, "=", version))
	p := &process{T: t, cmd: cmd}
	if p.stdin, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	p.stdout = bufio.NewScanner(stdout)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	return p
}

// trapped waits until the process is in its trap. It returns the id of the process's transaction, "" if it has none.
func (p *process) trapped() (xid string) {
	p.Helper()
	for p.stdout.Scan() {
		if xid, ok := strings.CutPrefix(p.stdout.Text(), "trapped "); ok {
			return xid
		}
		p.Log(p.stdout.Text())
	}
	p.Fatal("the process has ended")
	return ""
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	_ = p.cmd.Wait()
}

// end lets the process stop by itself, and returns the state that it ended in.
func (p *process) end() string {
	_ = p.stdin.Close()
	for p.stdout.Scan() {
		p.Log(p.stdout.Text())
	}
	_ = p.cmd.Wait() // the state has the error too
	return p.cmd.ProcessState.String()
}
