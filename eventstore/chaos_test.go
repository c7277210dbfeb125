package eventstore_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
)

// TestKilledBackends appends and follows while connections are killed in Postgres. At the end every
// acknowledged event is in the log exactly once, every follower has seen all of them once and in
// order, and what was not acknowledged is there once or not at all.
func TestKilledBackends(t *testing.T) {
	t.Parallel()
	const writers, each, followers = 8, 40, 2
	url := pgtest.URL(t)
	connect := func() *pgxpool.Pool {
		pool, err := pgxpool.New(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		return pool
	}
	store, err := eventstore.New(connect(), nil)
	if err != nil {
		t.Fatal(err)
	}
	killer := connect()

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var killing, following sync.WaitGroup
	kills := 0
	killing.Go(func() {
		pause := time.NewTicker(3 * time.Millisecond)
		defer pause.Stop()
		for ctx.Err() == nil {
			const kill = `
				select count(pg_terminate_backend(pid))
				  from (select pid
				          from pg_stat_activity
				         where datname = current_database()
				           and pid <> pg_backend_pid()
				           and backend_type = 'client backend'
				         order by random()
				         limit 1) one`
			var n int
			if err := killer.QueryRow(ctx, kill).Scan(&n); err == nil {
				kills += n
			}
			<-pause.C
		}
	})

	seen := make([][]eventstore.Raw, followers)
	for f := range followers {
		following.Go(func() {
			last := eventstore.Position(0)
			for t.Context().Err() == nil { // it ends with an error, and goes on where it was
				for event, err := range store.Follow(t.Context(), last, eventstore.Filter{}) {
					if err != nil {
						break
					}
					if event.Stream == stream("end") {
						return
					}
					seen[f] = append(seen[f], event)
					last = event.Position
				}
			}
		})
	}

	acknowledged := make([]map[uuid.UUID]eventstore.Receipt, writers)
	var unknown, failed sync.Map
	var writing sync.WaitGroup
	for w := range writers {
		acknowledged[w] = make(map[uuid.UUID]eventstore.Receipt)
		writing.Go(func() {
			random := rand.New(rand.NewPCG(uint64(w), 1))
			id, version := stream(fmt.Sprint("writer", w)), eventstore.Version(0)
			for n := range each {
				event := draft(n)
				event.ID = uuid.New()
				for {
					receipt, err := store.Append(t.Context(), id, version, event)
					if err == nil {
						acknowledged[w][event.ID] = receipt
						version = receipt.Version
						break
					}
					if errors.Is(err, eventstore.ErrConflict) {
						t.Errorf("writer %d has its stream for itself, but: %v", w, err)
						return
					}
					if errors.Is(err, eventstore.ErrUnknownOutcome) {
						unknown.Store(event.ID, true)
					}
					if random.IntN(4) == 0 && !errors.Is(err, eventstore.ErrUnknownOutcome) {
						failed.Store(event.ID, true) // given up: it must never be stored
						break
					}
				}
			}
		})
	}
	writing.Wait()
	stop()
	killing.Wait()
	for { // until the pool has got rid of its dead connections
		if _, err := store.Append(t.Context(), stream("end"), eventstore.Any, draft(0)); err == nil {
			break
		} else if t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
	following.Wait()

	count := make(map[uuid.UUID]int)
	var log []eventstore.Raw
	for event, err := range store.ReadAll(t.Context(), 0, eventstore.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if event.Stream == stream("end") {
			break
		}
		count[event.ID]++
		log = append(log, event)
	}
	total, unknowns := 0, 0
	for _, events := range acknowledged {
		total += len(events)
		for id := range events {
			if count[id] != 1 {
				t.Errorf("an acknowledged event is %d times in the log", count[id])
			}
		}
	}
	if len(log) != total {
		t.Errorf("%d events in the log, %d were acknowledged", len(log), total)
	}
	failed.Range(func(id, _ any) bool {
		if count[id.(uuid.UUID)] != 0 {
			t.Error("an event is in the log that was said not to be stored")
		}
		return true
	})
	unknown.Range(func(any, any) bool { unknowns++; return true })
	t.Logf("%d events, %d connections killed, %d outcomes unknown at first", total, kills, unknowns)
	if kills == 0 {
		t.Error("nothing was killed")
	}
	for f, events := range seen {
		if len(events) != len(log) {
			t.Fatalf("follower %d saw %d events of %d", f, len(events), len(log))
		}
		for i, event := range events {
			if event.ID != log[i].ID {
				t.Fatalf("follower %d saw another event than the log has at %d", f, i)
			}
		}
	}
}
