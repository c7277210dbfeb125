package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// liveWriters is how many writers append while projections follow.
const liveWriters = 64

func (b *bench) keepingUp(ctx context.Context) error {
	b.section("Projections that keep up", fmt.Sprintf("Events per second of %d writers that append single events while a projection follows, "+
		"counted until the last event is in the read model. The projection has a store and connections of its own. "+
		"The reference is the same writers without it. The last column is how long it takes to catch up after the last append.", liveWriters),
		"projection", "partitions", "events/s", "append/s", "ratio", "of turns", "behind p50")
	for _, m := range models {
		for _, n := range b.partitions(1, 2, 4) {
			err := b.database(ctx, func(db *database) error {
				var behind []time.Duration
				c, err := compare(ctx, b.duration(), db.by(liveWriters, db.append(1)), b.followed(db, m.make(n), &behind))
				if err != nil {
					return err
				}
				b.row(m.name, whole(n), rate(c.measured), rate(c.reference), ratio(c.ratio()), c.spread(), millis(percentile(behind, 50)))
				// If the reference had the last turn, its events are not handled yet.
				if err := b.project(ctx, []*projection.Projection{m.make(n)}, db.catchUp); err != nil {
					return err
				}
				handled, err := db.handled(ctx, m.rows)
				return expect("handled", handled, int(db.appended.Load()), err)
			})
			if err != nil {
				return fmt.Errorf("%s, %d partitions: %w", m.name, n, err)
			}
		}
	}
	return nil
}

// followed appends while a projection follows, and waits until the projection has handled all events. It adds to
// behind how long that took after the last append.
func (b *bench) followed(db *database, p *projection.Projection, behind *[]time.Duration) work {
	write := db.by(liveWriters, db.append(1))
	return func(ctx context.Context, d time.Duration) (t tally, err error) {
		err = b.project(ctx, []*projection.Projection{p}, func(ctx context.Context, r *projection.Runner) error {
			if err := db.catchUp(ctx, r); err != nil {
				return err
			}
			if t, err = write(ctx, d); err != nil {
				return err
			}
			start := time.Now()
			if err := db.catchUp(ctx, r); err != nil {
				return err
			}
			late := time.Since(start)
			t.took += late
			*behind = append(*behind, late)
			return nil
		})
		return t, err
	}
}

// catchUp waits until the projections have handled all events.
func (db *database) catchUp(ctx context.Context, r *projection.Runner) error {
	end, err := db.Tidemark(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute+time.Duration(db.appended.Load())*time.Millisecond)
	defer cancel()
	return r.Wait(ctx, end)
}

func (b *bench) lagging(ctx context.Context) error {
	b.section("Projections' lag", fmt.Sprintf("The time from the return of Append until Runner.Wait says that the event is in the read model, "+
		"at %s events per second, each appended by itself. The runner has a store and connections of its own.", whole(perSecond)),
		"projection", "partitions", "events", "events/s", "p50", "p99")
	worst := map[int]time.Duration{}
	for _, m := range models {
		for _, n := range b.partitions(1, 4) {
			var lags []time.Duration
			var rate float64
			err := b.database(ctx, func(db *database) error {
				err := b.project(ctx, []*projection.Projection{m.make(n)}, func(ctx context.Context, r *projection.Runner) (err error) {
					if _, _, err = db.lags(ctx, r, perSecond/10); err == nil { // opens the connections
						lags, rate, err = db.lags(ctx, r, int(b.seconds*perSecond))
					}
					return err
				})
				if err != nil {
					return err
				}
				handled, err := db.handled(ctx, m.rows)
				return expect("handled", handled, int(db.appended.Load()), err)
			})
			if err != nil {
				return fmt.Errorf("%s, %d partitions: %w", m.name, n, err)
			}
			cells := []string{m.name, whole(n), whole(len(lags)), fmt.Sprintf("%.0f", rate)}
			for _, p := range []int{50, 99} {
				lag := percentile(lags, p)
				cells = append(cells, millis(lag))
				worst[p] = max(worst[p], lag)
			}
			b.row(cells...)
		}
	}
	for _, limit := range []struct {
		p    int
		want time.Duration
	}{{50, 10 * time.Millisecond}, {99, 50 * time.Millisecond}} {
		b.target(fmt.Sprintf("%v to the lag, p%d", limit.want, limit.p), limit.want.Seconds()/worst[limit.p].Seconds(), 1)
	}
	return nil
}

// lags appends n events, each at its scheduled time even if earlier appends have not returned. It returns how long
// after the return of Append each event was in the read model, and the rate of the appends.
func (db *database) lags(ctx context.Context, r *projection.Runner, n int) (lags []time.Duration, rate float64, err error) {
	var mu sync.Mutex
	ctx, cancel := context.WithTimeout(ctx, time.Minute+time.Duration(n)*10*time.Millisecond)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	start := time.Now()
	for i := range n {
		time.Sleep(time.Until(start.Add(time.Duration(i) * time.Second / perSecond)))
		group.Go(func() error {
			receipt, err := db.Append(ctx, newStream(), eventstore.NoStream, db.draft)
			appended := time.Now()
			if err != nil {
				return err
			}
			db.appended.Add(1)
			if err := r.Wait(ctx, receipt.Position); err != nil {
				return err
			}
			lag := time.Since(appended)
			mu.Lock()
			defer mu.Unlock()
			lags = append(lags, lag)
			return nil
		})
	}
	rate = float64(n) / time.Since(start).Seconds()
	err = group.Wait()
	return lags, rate, err
}
