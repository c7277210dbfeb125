package main

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/tidemark-es/tidemark/aggregate"
	"github.com/tidemark-es/tidemark/eventstore"
)

// account is an aggregate.
type account struct {
	events  int
	balance int64
}

func (a *account) Apply(e deposited) {
	a.events++
	a.balance += e.Amount
}

var accounts = aggregate.Define[account]("account", depositing)

// fill appends the given number of events in streams of the given length. It returns the streams that have this length.
func (db *database) fill(ctx context.Context, events, length int) ([]eventstore.StreamID, error) {
	const atOnce = 1000 // events in a transaction
	streams := make([]eventstore.StreamID, 0, events/length)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4)
	for left := events; left > 0 && ctx.Err() == nil; {
		var changes []eventstore.Change
		for n := 0; n < atOnce && left > 0; {
			change := eventstore.Change{Stream: newStream()}
			for range min(length, left) {
				change.Events = append(change.Events, db.draft)
			}
			if len(change.Events) == length {
				streams = append(streams, change.Stream)
			}
			changes = append(changes, change)
			n, left = n+len(change.Events), left-len(change.Events)
		}
		group.Go(func() error {
			if _, err := db.Commit(ctx, changes...); err != nil {
				return err
			}
			for _, change := range changes {
				db.appended.Add(int64(len(change.Events)))
			}
			return nil
		})
	}
	return streams, group.Wait()
}

// copySQL is the fastest way to read the log in its order: neither a network nor a client takes part.
const copySQL = `
copy (select position, stream, version, id, type, schema, recorded_at, metadata, data
        from SCHEMA.events
       order by position)
  to '/dev/null' (format binary)`

func (db *database) copyOut(ctx context.Context) error {
	n, err := db.exec(ctx, copySQL)
	return expect("copied", int(n), int(db.appended.Load()), err)
}

// readAll reads the log after a position, and returns an error unless there are as many events as wanted.
func (db *database) readAll(ctx context.Context, after eventstore.Position, want int, use func(eventstore.Raw) error) error {
	n := 0
	for event, err := range db.ReadAll(ctx, after, eventstore.Filter{}) {
		if err == nil {
			err = use(event)
		}
		if err != nil {
			return err
		}
		n++
	}
	return expect("read", n, want, nil)
}

func raw(eventstore.Raw) error { return nil }

func decoded(event eventstore.Raw) error {
	_, err := depositing.Decode(event)
	return err
}

// load loads an aggregate, and returns an error unless it has as many events as wanted.
func (db *database) load(ctx context.Context, stream eventstore.StreamID, want int) error {
	loaded, err := made(aggregate.NewRepository(db.Store, accounts, nil)).Load(ctx, stream.Key)
	if err != nil {
		return err
	}
	return expect("folded", loaded.State.events, want, nil)
}

// expect returns err or, if n is not the wanted number of events, an error that says so.
func expect(done string, n, want int, err error) error {
	if err == nil && n != want {
		err = fmt.Errorf("%s %d events, want %d", done, n, want)
	}
	return err
}

func (b *bench) read(ctx context.Context) error {
	const length = 1000
	events := b.either(200_000, 2000)
	b.section("Read", "Events per second. The reference is COPY of the whole log, in order, to '/dev/null' (format binary). The log has "+
		whole(events)+" events in streams of "+whole(length)+".",
		append([]string{"read"}, columns("COPY")...)...)
	return b.database(ctx, func(db *database) error {
		streams, err := db.fill(ctx, events, length)
		if err != nil {
			return err
		}
		if err := db.settle(ctx); err != nil {
			return err
		}
		next := 0
		for _, kind := range []struct {
			name string
			want float64 // the target, 0 for none
			read work
		}{
			{"log, raw", 0, db.again(events, func(ctx context.Context) error { return db.readAll(ctx, 0, events, raw) })},
			{"log, decoded", 0.3, db.again(events, func(ctx context.Context) error { return db.readAll(ctx, 0, events, decoded) })},
			{"aggregates, folded", 0.3, db.again(length, func(ctx context.Context) error {
				next++
				return db.load(ctx, streams[next%len(streams)], length)
			})},
		} {
			c, err := compare(ctx, b.duration(), db.again(events, db.copyOut), kind.read)
			if err != nil {
				return fmt.Errorf("%s: %w", kind.name, err)
			}
			b.row(append([]string{kind.name}, c.cells()...)...)
			if kind.want > 0 {
				b.target("read to COPY, "+kind.name, c.ratio(), kind.want)
			}
		}
		return nil
	})
}
