//go:build unix

package projection_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
	"github.com/tidemark-es/tidemark/migrations"
	"github.com/tidemark-es/tidemark/projection"
)

var failoverFor = flag.Duration("failover", 3*time.Second, "how long TestFailover makes trouble")

const (
	failoverWriters = 6
	failoverPeriod  = time.Second            // how long the standby streams before its connection goes silent
	failoverSilence = 200 * time.Millisecond // from then until the primary is killed
	failoverLimit   = 2 * time.Minute        // bounds the time of the test after the last failover
)

// failover is a primary with a standby that replaces it, and this is repeated.
type failover struct {
	*fixture
	settings map[string]string
	primary  atomic.Pointer[pgtest.Node]
	standby  *pgtest.Node
	rounds   int
}

// TestFailover appends, follows and projects while primaries are killed and their standbys promoted. With a synchronous
// standby no acknowledged event is lost. With an asynchronous standby events can be lost, and the test counts them.
// With both, the log has no event twice, every stream is in order, and in the end followers and read models agree with
// the log.
func TestFailover(t *testing.T) {
	t.Parallel()
	for name, settings := range map[string]map[string]string{
		"synchronous":  {"synchronous_standby_names": "*"},
		"asynchronous": {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFailover(t, settings)
			f.run(name == "synchronous")
		})
	}
}

func newFailover(t *testing.T, settings map[string]string) *failover {
	t.Helper()
	f := &failover{fixture: &fixture{T: t}, settings: settings}
	f.primary.Store(pgtest.NewNode(t, settings))
	f.standBy()
	f.pool = f.open()
	if err := migrations.Up(t.Context(), f.pool, nil); err != nil {
		t.Fatal(err)
	}
	f.store = f.newStore()
	return f
}

// open returns a pool whose connections lead to the current primary, as behind a load balancer.
func (f *failover) open() *pgxpool.Pool {
	f.Helper()
	config, err := pgxpool.ParseConfig("postgres://postgres@balancer/postgres?sslmode=disable")
	if err != nil {
		f.Fatal(err)
	}
	config.MaxConns = 8
	config.ConnConfig.LookupFunc = func(context.Context, string) ([]string, error) { return []string{"balancer"}, nil }
	config.ConnConfig.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) { return f.primary.Load().Dial(ctx) }
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(pool.Close)
	return pool
}

func (f *failover) newStore() *eventstore.Store {
	f.Helper()
	store, err := eventstore.New(f.open(), nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(store.Close)
	return store
}

// standBy gives the primary a standby, and returns when the standby has caught up and streams.
func (f *failover) standBy() {
	f.Helper()
	primary := f.primary.Load()
	f.standby = primary.Standby(f, fmt.Sprint("standby", f.rounds), f.settings)
	f.until("the standby streams", func() bool {
		conn, err := pgx.Connect(f.Context(), primary.URL())
		if err != nil {
			return false
		}
		defer conn.Close(context.Background())
		var streams bool
		err = conn.QueryRow(f.Context(), `select exists (select from pg_stat_replication where state = 'streaming')`).Scan(&streams)
		return err == nil && streams
	})
}

// fail kills the primary, promotes the standby, and gives the new primary a standby.
func (f *failover) fail() {
	f.Helper()
	if err := f.primary.Load().Kill(); err != nil {
		f.Fatal(err)
	}
	if err := f.standby.Promote(f.Context()); err != nil {
		f.Fatal(err)
	}
	f.primary.Store(f.standby)
	f.rounds++
	f.standBy()
}

func (f *failover) run(synchronous bool) {
	ctx, cancel := context.WithTimeout(f.Context(), *failoverFor+failoverLimit)
	defer cancel()
	trouble, over := context.WithCancel(ctx)
	defer over()
	r, _ := f.start(small(), f.store, rollTable(projection.Options{Partitions: 2}, nil))

	var writing, following sync.WaitGroup
	writers := make([]*failoverWriter, failoverWriters)
	for n := range writers {
		writers[n] = &failoverWriter{f: f, number: n, store: f.newStore()}
		writing.Go(func() { writers[n].run(ctx, trouble) })
	}
	followers := make([]*failoverFollower, 3)
	for n := range followers {
		followers[n] = &failoverFollower{store: f.newStore()}
		following.Go(func() { followers[n].run(ctx) })
	}
	for deadline := time.Now().Add(*failoverFor); time.Now().Before(deadline); f.fail() {
		pass(ctx, failoverPeriod) // undisturbed work
		f.primary.Load().Gate.Silence()
		pass(ctx, failoverSilence) // events stored now do not reach the standby
	}
	over()
	writing.Wait()
	f.wait(r, f.last(ctx))
	following.Wait()
	f.checkRolled()
	f.check(synchronous, writers, followers)
}

// pass waits for a period, or until ctx is done.
func pass(ctx context.Context, period time.Duration) {
	select {
	case <-time.After(period):
	case <-ctx.Done():
	}
}

// failoverEnd is the stream of the last event.
var failoverEnd = eventstore.StreamID{Category: "counter", Key: "end"}

// last appends the last event. It tries until the store has noticed that its old connections are dead.
func (f *failover) last(ctx context.Context) (position eventstore.Position) {
	f.Helper()
	draft := mustEncode(f, -1)
	f.until("an append after the last failover", func() bool {
		receipt, err := f.store.Append(eventstore.WithKey(ctx, "end", nil), failoverEnd, eventstore.NoStream, draft)
		position = receipt.Position
		return err == nil
	})
	return position
}

func mustEncode(f *failover, n int) eventstore.Draft {
	draft, err := counting.Encode(counted{n})
	if err != nil {
		f.Error(err)
	}
	draft.ID = uuid.New()
	return draft
}

// failoverWriter appends its numbers in ascending order to a stream of its own, and keeps the receipts.
type failoverWriter struct {
	f       *failover
	number  int
	store   *eventstore.Store
	stored  map[uuid.UUID]eventstore.Receipt
	unknown int
}

func (w *failoverWriter) run(ctx, trouble context.Context) {
	w.stored = make(map[uuid.UUID]eventstore.Receipt)
	stream := eventstore.StreamID{Category: "counter", Key: fmt.Sprint("writer", w.number)}
	expected := eventstore.Any
	exact := w.number%3 == 1
	if exact {
		expected = eventstore.NoStream
	}
	pace := time.NewTicker(2 * time.Millisecond)
	defer pace.Stop()
	for n := 0; trouble.Err() == nil; n++ {
		<-pace.C
		draft, with := mustEncode(w.f, n), ctx
		if w.number%3 == 0 {
			with = eventstore.WithKey(ctx, fmt.Sprintf("%d:%d", w.number, n), nil)
		}
		receipt, err := w.store.Append(with, stream, expected, draft)
		switch {
		case err == nil:
			w.stored[draft.ID] = receipt
			if exact {
				expected = receipt.Version
			}
		case errors.Is(err, eventstore.ErrUnknownOutcome):
			w.unknown++
		}
		if err != nil && exact { // the version of its stream is unknown now
			if info, err := w.store.Stat(ctx, stream); err == nil {
				expected = info.Version
			}
		}
	}
}

// failoverFollower keeps the ids of the events that it has read. After an error it reads the log from the beginning.
type failoverFollower struct {
	store  *eventstore.Store
	seen   []uuid.UUID
	afresh int
	done   bool
}

func (l *failoverFollower) run(ctx context.Context) {
	for ; ctx.Err() == nil; l.afresh++ {
		l.seen = nil
		for event, err := range l.store.Follow(ctx, 0, eventstore.Filter{}) {
			if err != nil {
				break
			}
			l.seen = append(l.seen, event.ID)
			if event.Stream == failoverEnd {
				l.done = true
				return
			}
		}
	}
}

// failoverCounts counts the events of a run, and the errors found in the log and in the followers.
type failoverCounts struct {
	events, acknowledged, unknown int
	lost                          int // acknowledged events that are not in the log
	moved                         int // events whose position or version is not that of the receipt
	doubled, disorder             int // events of the log that are there twice, or out of order
	skipped, ghosts               int // events that a follower has missed, and events of a follower that are not in the log
}

func (f *failover) check(synchronous bool, writers []*failoverWriter, followers []*failoverFollower) {
	f.Helper()
	var c failoverCounts
	var log []uuid.UUID
	found := make(map[uuid.UUID]eventstore.Raw)
	latest := make(map[eventstore.StreamID]eventstore.Raw)
	numbers := make(map[eventstore.StreamID]int)
	for event, err := range f.store.ReadAll(f.Context(), 0, eventstore.Filter{}) {
		if err != nil {
			f.Fatal(err)
		}
		var number counted
		if err := json.Unmarshal(event.Data, &number); err != nil {
			f.Fatal(err)
		}
		before, known := latest[event.Stream]
		if _, again := found[event.ID]; again || known && number.N == numbers[event.Stream] {
			c.doubled++
		} else if event.Version != before.Version+1 || event.Position <= before.Position || known && number.N < numbers[event.Stream] {
			c.disorder++
		}
		found[event.ID], latest[event.Stream], numbers[event.Stream] = event, event, number.N
		log = append(log, event.ID)
	}
	c.events = len(log)
	for _, w := range writers {
		c.acknowledged += len(w.stored)
		c.unknown += w.unknown
		for id, receipt := range w.stored {
			if event, ok := found[id]; !ok {
				c.lost++
			} else if event.Position != receipt.Position || event.Version != receipt.Version {
				c.moved++
			}
		}
	}
	afresh := 0
	for _, l := range followers {
		afresh += l.afresh
		if !l.done {
			f.Error("a follower did not reach the last event")
		}
		c.skipped += missing(log, l.seen)
		c.ghosts += missing(l.seen, log)
		if len(l.seen) == len(log) && !slices.Equal(l.seen, log) {
			c.disorder++
		}
	}
	f.Logf("%d failovers: %+v, followers began again %d times", f.rounds, c, afresh)
	if c.moved+c.doubled+c.disorder+c.skipped+c.ghosts > 0 {
		f.Errorf("moved, doubled, out of order, skipped or ghosts: %+v", c)
	}
	if synchronous && c.lost > 0 {
		f.Errorf("%d acknowledged events are lost, although the standby was synchronous", c.lost)
	}
	if f.rounds == 0 || c.acknowledged == 0 {
		f.Errorf("%d failovers and %d acknowledged events, want both to be more than 0", f.rounds, c.acknowledged)
	}
}

// missing counts the events of a that are not in b.
func missing(a, b []uuid.UUID) (n int) {
	in := make(map[uuid.UUID]bool, len(b))
	for _, id := range b {
		in[id] = true
	}
	for _, id := range a {
		if !in[id] {
			n++
		}
	}
	return n
}
