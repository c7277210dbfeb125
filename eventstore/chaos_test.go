//go:build unix

package eventstore_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/migrations"
)

var chaosFor = flag.Duration("chaos", 3*time.Second, "how long TestChaos makes trouble")

const (
	chaosWriters = 32
	chaosStores  = 4                // shared by the writers; every second store is behind the proxy
	crashPeriod  = 10 * time.Second // between two crashes of Postgres, unless the test is shorter
	recovery     = time.Minute      // bounds the time after the trouble
)

// TestChaos appends and follows while backends are killed, connections are cut, contexts of callers end and Postgres
// crashes. At the end:
//
//   - An acknowledged commit is in the log exactly once, at the versions and positions of its receipts.
//   - A commit that was reported as not stored is not in the log.
//   - A commit with an unknown outcome is in the log once or not at all.
//   - Every follower has seen exactly the events of the log that its filter selects, in order.
func TestChaos(t *testing.T) {
	t.Parallel()
	server := startCrashing(t)
	proxy := startProxy(t, server.dial)
	if err := migrations.Up(t.Context(), server.pool(t, 1, server.dial), nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), *chaosFor+recovery)
	defer cancel()
	trouble, stop := context.WithTimeout(ctx, *chaosFor)
	defer stop()

	dials := []func(context.Context) (net.Conn, error){server.dial, proxy.connect}
	open := func(i int, config eventstore.Config) *eventstore.Store {
		return another(t, server.pool(t, 4, dials[i%2]), config)
	}
	followers := []*follower{
		{store: open(0, eventstore.Config{})},
		{store: open(1, eventstore.Config{})},
		{store: open(0, eventstore.Config{PollOnly: true, PageSize: 10})},
		{store: open(1, eventstore.Config{}), filter: eventstore.Filter{Types: []string{"chaos.odd"}, Categories: []string{"own"}}},
	}
	var following sync.WaitGroup
	for i, f := range followers {
		following.Go(func() {
			if err := f.run(ctx); err != nil {
				t.Errorf("follower %d: %v", i, err)
			}
		})
	}
	var stores []*eventstore.Store
	for i := range chaosStores {
		stores = append(stores, open(i, eventstore.Config{}))
	}
	writers := make([]*writer, chaosWriters)
	var writing sync.WaitGroup
	for i := range writers {
		writers[i] = &writer{t: t, n: i, store: stores[i%chaosStores], random: rand.New(rand.NewPCG(uint64(i), 1))}
		writing.Go(func() { writers[i].run(ctx, trouble) })
	}
	makeTrouble(ctx, trouble, t, server, proxy)
	writing.Wait()

	calm := open(0, eventstore.Config{}) // the pools of the other stores may hold dead connections
	if _, err := calm.Append(ctx, end, eventstore.NoStream, eventstore.Draft{Type: "chaos.odd", Data: []byte(`1`)}); err != nil {
		t.Fatal(err)
	}
	following.Wait()
	checkChaos(t, calm, writers, followers)
}

// makeTrouble makes trouble until the context trouble is done. It returns when the server runs normally again.
func makeTrouble(ctx, trouble context.Context, t *testing.T, server *crashing, proxy *proxy) {
	t.Helper()
	var running sync.WaitGroup
	every := func(period time.Duration, do func()) {
		running.Go(func() {
			tick := time.NewTicker(period)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					do()
				case <-trouble.Done():
					return
				}
			}
		})
	}
	const kill = `
		select count(pg_terminate_backend(pid))
		  from (select pid
		          from pg_stat_activity
		         where pid <> pg_backend_pid()
		           and backend_type = 'client backend'
		         order by random()
		         limit 1) one`
	killer := server.pool(t, 1, server.dial)
	kills, cuts, crashes := 0, 0, 0
	every(5*time.Millisecond, func() {
		var n int
		if err := killer.QueryRow(trouble, kill).Scan(&n); err == nil {
			kills += n
		}
	})
	every(20*time.Millisecond, func() {
		if proxy.cut() {
			cuts++
		}
	})
	every(time.Second, func() {
		proxy.refusing.Store(true)
		proxy.cutAll()
		select {
		case <-time.After(100 * time.Millisecond):
		case <-trouble.Done():
		}
		proxy.refusing.Store(false)
	})
	every(min(crashPeriod, *chaosFor*2/3), func() {
		if err := server.crash(); err != nil {
			t.Errorf("crash: %v", err)
		}
		crashes++
	})
	running.Wait()
	t.Logf("%d backends killed, %d connections cut, %d crashes", kills, cuts, crashes)
	if kills == 0 || cuts == 0 || crashes == 0 {
		t.Error("there was no such trouble")
	}
}

// follower keeps the events that it has seen.
type follower struct {
	store  *eventstore.Store
	filter eventstore.Filter
	seen   []sighting
}

type sighting struct {
	position eventstore.Position
	id       uuid.UUID
}

// end is the stream of the last event, which every follower sees.
var end = eventstore.StreamID{Category: "own", Key: "end"}

func (f *follower) run(ctx context.Context) error {
	for event, err := range f.store.Follow(ctx, 0, f.filter) {
		if err != nil {
			return fmt.Errorf("after %d events: %w", len(f.seen), err)
		}
		if event.Stream == end {
			return nil
		}
		f.seen = append(f.seen, sighting{event.Position, event.ID})
	}
	return errors.New("the loop ended")
}

// writer appends, and keeps the outcome of each commit.
type writer struct {
	t      *testing.T
	n      int
	store  *eventstore.Store
	random *rand.Rand
	at     map[eventstore.StreamID]eventstore.Version // of its own streams
	told   []told
}

type told struct {
	outcome outcome
	err     error // if it was not acknowledged
	changes []toldChange
}

type toldChange struct {
	stream  eventstore.StreamID
	ids     []uuid.UUID
	receipt eventstore.Receipt // if it was acknowledged
}

type outcome int

const (
	acknowledged outcome = iota
	refused              // nothing is stored, and the writer gave up
	unknown
	wrong // an error that must not happen
)

// run appends until the trouble is over.
func (w *writer) run(ctx, trouble context.Context) {
	w.at = make(map[eventstore.StreamID]eventstore.Version)
	for n := 0; trouble.Err() == nil; n++ {
		key := ""
		var changes []eventstore.Change
		switch w.n / chaosStores % 4 {
		case 0, 1: // streams of its own at exact versions: the event ids identify a repeat
			changes = w.changes("own", fmt.Sprint(w.n, "a"), fmt.Sprint(w.n, "b"))
			for i := range changes {
				changes[i].Expected = w.at[changes[i].Stream]
			}
		case 2: // shared streams: the key identifies a repeat
			key = fmt.Sprint(w.n, ".", n)
			changes = w.changes("shared", fmt.Sprint("k", w.random.IntN(4)), fmt.Sprint("l", w.random.IntN(4)))
		default: // shared streams without a key: nothing identifies a repeat
			changes = w.changes("shared", fmt.Sprint("k", w.random.IntN(4)), fmt.Sprint("m", w.random.IntN(4)))
		}
		outcome, receipts, err := w.commit(ctx, key, changes)
		if outcome == wrong {
			w.t.Errorf("writer %d, commit %d: %v", w.n, n, err)
			return
		}
		this := told{outcome: outcome, err: err}
		for i, change := range changes {
			c := toldChange{stream: change.Stream}
			for _, event := range change.Events {
				c.ids = append(c.ids, event.ID)
			}
			if outcome == acknowledged {
				c.receipt = receipts[i]
				w.at[change.Stream] = receipts[i].Version
			}
			this.changes = append(this.changes, c)
		}
		w.told = append(w.told, this)
	}
}

// changes returns new events for one of two streams, or for both.
func (w *writer) changes(category, one, other string) (changes []eventstore.Change) {
	keys := [][]string{{one}, {one}, {other}, {one, other}}[w.random.IntN(4)]
	for _, key := range keys {
		change := eventstore.Change{Stream: eventstore.StreamID{Category: category, Key: key}, Expected: eventstore.Any}
		for range 1 + w.random.IntN(3) {
			change.Events = append(change.Events, eventstore.Draft{
				ID: uuid.New(), Type: []string{"chaos.odd", "chaos.even"}[w.random.IntN(2)], Data: []byte(`{}`),
			})
		}
		changes = append(changes, change)
	}
	return changes
}

// commit repeats a commit until its outcome is known. It returns unknown if a repeat cannot find out the outcome. After
// an error that means that nothing was stored, it sometimes gives up.
func (w *writer) commit(ctx context.Context, key string, changes []eventstore.Change) (outcome, []eventstore.Receipt, error) {
	repeatable := key != "" || changes[0].Expected >= 0
	isUnknown := false
	var before error
	for {
		receipts, err := w.try(ctx, key, changes)
		before = errors.Join(before, err)
		switch {
		case err == nil:
			return acknowledged, receipts, nil
		case errors.Is(err, eventstore.ErrConflict): // no other writer appends to these streams
			return wrong, nil, err
		case errors.Is(err, eventstore.ErrKeyReused), errors.Is(err, eventstore.ErrInvalid), errors.Is(err, eventstore.ErrNotMigrated):
			return wrong, nil, err
		case errors.Is(err, eventstore.ErrUnknownOutcome):
			if !repeatable {
				return unknown, nil, err
			}
			isUnknown = true
		case !isUnknown && w.random.IntN(4) == 0:
			return refused, nil, before
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return wrong, nil, fmt.Errorf("%w: %w", ctx.Err(), err)
		}
	}
}

// try commits once, sometimes with a short deadline.
func (w *writer) try(ctx context.Context, key string, changes []eventstore.Change) ([]eventstore.Receipt, error) {
	if key != "" {
		ctx = eventstore.WithKey(ctx, key, nil)
	}
	if w.random.IntN(8) == 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(w.random.IntN(20))*time.Millisecond)
		defer cancel()
	}
	return w.store.Commit(ctx, changes...)
}

// checkChaos compares the log with the outcomes of the writers and the events that the followers have seen.
func checkChaos(t *testing.T, store *eventstore.Store, writers []*writer, followers []*follower) {
	t.Helper()
	type place struct {
		stream  eventstore.StreamID
		receipt eventstore.Receipt
	}
	places := make(map[uuid.UUID]place)
	sightings := make([][]sighting, len(followers)) // that the followers must have
	versions := make(map[eventstore.StreamID]eventstore.Version)
	last, ended := eventstore.Position(0), false
	for event, err := range store.ReadAll(t.Context(), 0, eventstore.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if event.Position <= last {
			t.Errorf("position %d comes after %d", event.Position, last)
		}
		last = event.Position
		if versions[event.Stream]++; event.Version != versions[event.Stream] {
			t.Errorf("version %d of %s comes as number %d", event.Version, event.Stream, versions[event.Stream])
			versions[event.Stream] = event.Version // report the gap once
		}
		if event.Stream == end {
			ended = true
			continue
		}
		if first, ok := places[event.ID]; ok {
			t.Errorf("event %s is stored twice: %v and %s, %d, %d", event.ID, first, event.Stream, event.Version, event.Position)
		}
		places[event.ID] = place{event.Stream, eventstore.Receipt{Version: event.Version, Position: event.Position}}
		for i, f := range followers {
			if !ended && f.filter.Match(event) {
				sightings[i] = append(sightings[i], sighting{event.Position, event.ID})
			}
		}
	}

	counts := make(map[outcome]int)
	known := 0
	for _, w := range writers {
		for _, told := range w.told {
			counts[told.outcome]++
			want, stored := 0, 0
			for _, change := range told.changes {
				for i, id := range change.ids {
					want++
					at, ok := places[id]
					if !ok {
						continue
					}
					stored++
					if at.stream != change.stream {
						t.Errorf("an event of %s is in %s", change.stream, at.stream)
					}
					fromEnd := eventstore.Version(len(change.ids) - 1 - i)
					if told.outcome == acknowledged && (at.receipt.Version != change.receipt.Version-fromEnd ||
						fromEnd == 0 && at.receipt != change.receipt) {
						t.Errorf("event %d of %d is at %+v, its receipt was %+v", i+1, len(change.ids), at.receipt, change.receipt)
					}
				}
			}
			known += stored
			if told.outcome == acknowledged && stored != want || told.outcome == refused && stored != 0 ||
				told.outcome == unknown && stored != 0 && stored != want {
				t.Errorf("writer %d: %d of %d events are stored, the outcome was %d, %v", w.n, stored, want, told.outcome, told.err)
			}
		}
	}
	if known != len(places) {
		t.Errorf("%d events are stored, the writers know of %d", len(places), known)
	}
	t.Logf("%d events; commits: %d acknowledged, %d refused and given up, %d unknown",
		len(places), counts[acknowledged], counts[refused], counts[unknown])
	for i, f := range followers {
		n := 0
		for n < min(len(f.seen), len(sightings[i])) && f.seen[n] == sightings[i][n] {
			n++
		}
		if n < max(len(f.seen), len(sightings[i])) {
			t.Errorf("follower %d saw %d events, the log has %d for it; after the first %d it saw %+v instead of %+v", i,
				len(f.seen), len(sightings[i]), n, f.seen[n:min(n+3, len(f.seen))], sightings[i][n:min(n+3, len(sightings[i]))])
		}
	}
}
