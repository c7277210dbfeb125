package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidemark-es/tidemark/eventstore"
)

// perSecond is how many events are appended per second while a latency is measured.
const perSecond = 1000

func (b *bench) latency(ctx context.Context) error {
	b.section("Latency", fmt.Sprintf("The time from the return of Append until a follower has the event, at %s events per second, each appended by itself. "+
		"The follower has a store and connections of its own. The time is 0 if the follower has the event before Append returns.", whole(perSecond)),
		"follower", "events", "events/s", "p50", "p99")
	for _, follower := range []struct {
		name   string
		config eventstore.Config
	}{
		{"notified", eventstore.Config{Schema: schema}},
		{"polling", eventstore.Config{Schema: schema, PollOnly: true}},
	} {
		err := b.database(ctx, func(db *database) error {
			late, rate, err := b.follow(ctx, db, &follower.config)
			if err == nil {
				b.row(follower.name, whole(len(late)), fmt.Sprintf("%.0f", rate), millis(percentile(late, 50)), millis(percentile(late, 99)))
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("%s: %w", follower.name, err)
		}
	}
	return nil
}

// times say when something happened to the event at a position.
type times map[eventstore.Position]time.Time

// follow appends events at a steady rate. It returns how long after the return of Append each event reached
// a follower, and the rate.
func (b *bench) follow(ctx context.Context, db *database, config *eventstore.Config) (late []time.Duration, rate float64, err error) {
	pool, err := b.connect(ctx)
	if err != nil {
		return nil, 0, err
	}
	defer pool.Close()
	store, err := eventstore.New(pool, config)
	if err != nil {
		return nil, 0, err
	}
	defer store.Close()

	// The first events open the connections, and are not measured.
	warmup := perSecond / 10
	n := warmup + int(b.seconds*perSecond)
	ctx, cancel := context.WithTimeout(ctx, 2*b.duration()+time.Minute)
	defer cancel()
	var acked, seen times
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		seen, err = watch(ctx, store, n)
		return err
	})
	group.Go(func() error {
		_, err := db.pace(ctx, warmup)
		if err != nil {
			return err
		}
		start := time.Now()
		acked, err = db.pace(ctx, n-warmup)
		rate = float64(n-warmup) / time.Since(start).Seconds()
		return err
	})
	if err := group.Wait(); err != nil {
		return nil, 0, err
	}
	for position, at := range acked {
		saw, ok := seen[position]
		if !ok {
			return nil, 0, fmt.Errorf("the follower missed position %d", position)
		}
		late = append(late, max(0, saw.Sub(at)))
	}
	return late, rate, nil
}

// watch follows the log until it has n events, and returns when it got each.
func watch(ctx context.Context, store *eventstore.Store, n int) (times, error) {
	seen := make(times, n)
	for event, err := range store.Follow(ctx, 0, eventstore.Filter{}) {
		if err != nil {
			return nil, fmt.Errorf("after %d of %d events: %w", len(seen), n, err)
		}
		seen[event.Position] = time.Now()
		if len(seen) == n {
			break
		}
	}
	return seen, nil
}

// pace appends n events, each at its scheduled time even if earlier appends have not returned. It returns when
// each append returned.
func (db *database) pace(ctx context.Context, n int) (times, error) {
	var mu sync.Mutex
	acked := make(times, n)
	group, ctx := errgroup.WithContext(ctx)
	start := time.Now()
	for i := range n {
		time.Sleep(time.Until(start.Add(time.Duration(i) * time.Second / perSecond)))
		group.Go(func() error {
			receipt, err := db.Append(ctx, newStream(), eventstore.NoStream, db.draft)
			now := time.Now()
			if err != nil {
				return err
			}
			db.appended.Add(1)
			mu.Lock()
			defer mu.Unlock()
			acked[receipt.Position] = now
			return nil
		})
	}
	return acked, group.Wait()
}
