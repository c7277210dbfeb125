package projection_test

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// many returns a projection with the given number of partitions. It writes the positions of its events into the model.
func many(f *fixture, name string, partitions int) *projection.Projection {
	return newHandler(f, name, projection.Options{Partitions: partitions}, noHook)
}

// TestPartitionsChanged: two processes have different numbers of partitions for one projection, and its rows are
// deleted while they run. A process runs the projection only if its number is that of the database, and otherwise says
// why not.
func TestPartitionsChanged(t *testing.T) {
	t.Parallel()
	f := setup(t)
	config := *quiet
	config.Lease = time.Second
	one, _ := f.start(&config, f.store, many(f, "a", 1))
	f.wait(one, f.put("x", 1, 2, 3))
	f.exec(`delete from tidemark.projections where name = 'a'`)
	f.exec(`delete from model`)
	four, stop := f.start(&config, f.store, many(f, "a", 4))
	for n := range 20 {
		f.put(string(rune('a'+n)), 1, 2)
	}
	f.wait(four, f.put("x", 4))
	f.checkOnce("a")
	f.until("the first process says why it does not run the projection", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		err := one.Wait(ctx, 1<<40)
		return err != nil && strings.Contains(err.Error(), "4 partitions in the database and 1 in this process")
	})
	stop()

	// The other way round: after four partitions the projection has one.
	f.exec(`delete from tidemark.projections where name = 'a'`)
	f.exec(`delete from model`)
	again, _ := f.start(&config, f.store, many(f, "a", 1))
	f.wait(again, f.put("y", 1))
	f.checkOnce("a")
}

// TestTampered changes the tables of projections at random while processes run the projections. No process panics or
// hangs. When the rows are deleted and the projections are registered again, their read models are complete.
func TestTampered(t *testing.T) {
	t.Parallel()
	f := setup(t)
	config := *quiet
	config.Lease = time.Second
	var stops []func()
	for _, partitions := range []int{1, 4, 16} {
		r, err := projection.NewRunner(f.pool, f.store, &config, many(f, "a", partitions), newEffect(f, "b", projection.Options{Partitions: partitions}, noHook),
			newPositions(f, "c", projection.Options{Partitions: partitions}, noHook),
			newPositions(f, "c", projection.Options{Partitions: partitions, Version: 2}, noHook)) // a version that is built at the same time
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = r.Run(ctx) }) // an error is normal here: another process has the same projection with other partitions
		running.Go(func() {
			for ctx.Err() == nil {
				_, _ = r.Status(ctx)
				_ = r.Health(ctx)
				short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
				_ = r.Wait(short, 1<<40)
				_ = r.Operator().Switch(short, projection.Ref{Name: "c", Version: 1})
				_ = r.Operator().Switch(short, projection.Ref{Name: "c", Version: 2})
				cancel()
			}
		})
		stops = append(stops, func() { cancel(); running.Wait() })
	}
	tampering := []string{
		`delete from tidemark.projections where name = $1`,
		`delete from tidemark.projection_partitions where projection = $1 and partition = (random() * 4)::int`,
		`delete from tidemark.projection_partitions where projection = $1`,
		`delete from tidemark.projection_partitions where projection = $1 and version = 1`,
		`delete from tidemark.projections where name = $1 and version = 1`,
		`update tidemark.projections set phase = case phase when 'live' then 'building' else 'live' end where name = $1`,
		`insert into tidemark.projection_partitions (projection, version, partition) select name, version, 20 + (random() * 1000)::int from tidemark.projections where name = $1 on conflict do nothing`,
		`update tidemark.projection_partitions set checkpoint = (random() * 100)::int where projection = $1`,
		`update tidemark.projection_partitions set checkpoint = -5 where projection = $1`,
		`update tidemark.projection_partitions set checkpoint = 1000000 where projection = $1`,
		`update tidemark.projection_partitions set partition = partition + 7 where projection = $1`,
		`update tidemark.projection_partitions set lease_owner = 'nobody', lease_expires = 'infinity' where projection = $1`,
		`update tidemark.projection_partitions set lease_expires = null where projection = $1`,
		`update tidemark.projection_partitions set fencing_token = fencing_token - 3 where projection = $1`,
		`update tidemark.projections set partitions = 1 + (random() * 15)::int where name = $1`,
		`update tidemark.projections set phase = 'retired' where name = $1`,
		`update tidemark.projections set types = '{}' where name = $1`,
		`update tidemark.projections set types = array['nonsense'] where name = $1`,
		`update tidemark.projections set added = '[1, 2]' where name = $1`,
		`update tidemark.projections set added = 'null' where name = $1`,
		`update tidemark.projections set held_until = 'infinity' where name = $1`,
		`update tidemark.projections set inline = 3 where name = $1`,
		`update tidemark.projections set tables = '{x,y}', definition = 'x' where name = $1`,
		`delete from tidemark.projection_members where projection = $1`,
		`insert into tidemark.projection_members (projection, version, owner, expires) select name, version, 'ghost', 'infinity' from tidemark.projections where name = $1 on conflict do nothing`,
		`insert into tidemark.dead_letters (projection, version, partition, key, position) select name, version, 99, 'counter-a', 1 from tidemark.projections where name = $1 on conflict do nothing`,
		`delete from tidemark.dead_letters where projection = $1`,
		`delete from tidemark.inbox where projection = $1`,
	}
	random := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); {
		sql := tampering[random.IntN(len(tampering))]
		if _, err := f.pool.Exec(t.Context(), sql, []string{"a", "b", "c"}[random.IntN(3)]); err != nil {
			t.Logf("%s: %v", sql, err) // normal: a change can contradict an earlier one
		}
		draft, err := counting.Encode(counted{random.IntN(10)})
		if err != nil {
			t.Fatal(err)
		}
		stream := eventstore.StreamID{Category: "counter", Key: []string{"a", "b", "c"}[random.IntN(3)]}
		_, _ = f.store.Append(t.Context(), stream, eventstore.Any, draft) // refused while a row says that it is kept inline
	}
	for _, stop := range stops {
		stop()
	}
	f.exec(`delete from tidemark.projections`)
	f.exec(`delete from tidemark.inbox`)
	f.exec(`delete from model`)
	f.exec(`drop table if exists c_v1, c_v2 cascade`)
	r, _ := f.start(&config, f.store, many(f, "a", 2), newPositions(f, "c", projection.Options{}, noHook))
	f.wait(r, f.put("a", 1))
	f.checkOnce("a")
}

func noHook(context.Context, pgx.Tx, eventstore.Event[counted]) error { return nil }

// checkOnce checks that the model has every event of the log once.
func (f *fixture) checkOnce(name string) {
	f.Helper()
	var missing, doubled int
	err := f.pool.QueryRow(f.Context(), `
		select (select count(*) from tidemark.events e where not exists (select from model m where m.name = $1 and m.position = e.position)),
		       (select count(*) - count(distinct position) from model where name = $1)`, name).Scan(&missing, &doubled)
	if err != nil || missing > 0 || doubled > 0 {
		f.Errorf("%d events are missing and %d are doubled; %v", missing, doubled, err)
	}
}

// TestSwitchWithoutPartitions: when the partitions of the live version were deleted by hand, another version cannot
// become live. The error of Switch says why.
func TestSwitchWithoutPartitions(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r, stop := f.start(quiet, f.store, newPositions(f, "c", projection.Options{}, noHook))
	f.wait(r, f.put("a", 1))
	stop()
	f.exec(`delete from tidemark.projection_partitions where version = 1`)
	r, _ = f.start(quiet, f.store, newPositions(f, "c", projection.Options{Version: 2}, noHook))
	f.until("Switch says that rows were deleted", func() bool {
		err := r.Operator().Switch(t.Context(), projection.Ref{Name: "c", Version: 2})
		return err != nil && strings.Contains(err.Error(), "were their rows deleted?")
	})
}
