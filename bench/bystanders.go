package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/tidemark-es/tidemark/eventstore"
)

const (
	bystanders = 16
	waiters    = 4
)

func (b *bench) bystanders(ctx context.Context) error {
	b.section("Bystanders", fmt.Sprintf("How long an append takes, for %d writers with one stream each. \"Held up\" is the time while an open transaction "+
		"has appended to another stream and %d appends to that stream wait; \"free\" is the time without them.", bystanders, waiters),
		"append", "free", "held up", "times", "appends")
	pool, err := b.connect(ctx) // for the transaction that holds up others
	if err != nil {
		return err
	}
	defer pool.Close()
	return b.database(ctx, func(db *database) error {
		var free, held took
		calm, blocked := db.by(bystanders, free.time(db.append(1))), db.blocked(pool, db.by(bystanders, held.time(db.append(1))))
		for _, warmUp := range []work{calm, blocked} {
			if _, err := warmUp(ctx, b.duration()/turns); err != nil {
				return err
			}
		}
		free.sample, held.sample = nil, nil
		if _, err := compare(ctx, b.duration(), calm, blocked); err != nil {
			return err
		}
		for _, p := range []int{50, 99} {
			f, h := percentile(free.sample, p), percentile(held.sample, p)
			b.row(fmt.Sprintf("p%d", p), millis(f), millis(h), ratio(h.Seconds()/f.Seconds()), whole(len(held.sample)))
		}
		return nil
	})
}

// took collects how long writes took.
type took struct {
	mu     sync.Mutex
	sample []time.Duration
}

func (t *took) time(write write) write {
	return func(ctx context.Context, stream eventstore.StreamID, after eventstore.Version) (int, error) {
		start := time.Now()
		n, err := write(ctx, stream, after)
		d := time.Since(start)
		t.mu.Lock()
		defer t.mu.Unlock()
		t.sample = append(t.sample, d)
		return n, err
	}
}

// blocked does work while an open transaction has appended to a stream and other appends to that stream wait.
func (db *database) blocked(pool *pgxpool.Pool, work work) work {
	return func(ctx context.Context, d time.Duration) (t tally, err error) {
		stream := newStream()
		var through atomic.Int64
		waiting, waitingCtx := errgroup.WithContext(ctx)
		blockErr := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if _, err := db.WithTx(tx).Append(ctx, stream, eventstore.NoStream, db.draft); err != nil {
				return err
			}
			for range waiters {
				waiting.Go(func() error {
					_, err := db.Append(waitingCtx, stream, eventstore.Any, db.draft)
					through.Add(1)
					return err
				})
			}
			if t, err = work(ctx, d); err != nil {
				return err
			}
			if n := through.Load(); n > 0 {
				return fmt.Errorf("%d appends did not wait for the transaction", n)
			}
			return nil
		})
		if err := errors.Join(blockErr, waiting.Wait()); err != nil {
			return t, err
		}
		db.appended.Add(1 + waiters)
		return t, nil
	}
}
