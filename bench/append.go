package main

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/google/uuid"

	"github.com/tidemark-es/tidemark/eventstore"
)

// write stores events after a version of a stream and returns how many.
type write func(ctx context.Context, stream eventstore.StreamID, after eventstore.Version) (int, error)

const insertSQL = `
insert into SCHEMA.plain
       (position, stream, version, id, type, schema, data, metadata, recorded_at)
values (nextval('SCHEMA.plain_position_seq'), $1, $2, $3, $4, 1, $5, null, clock_timestamp())`

// insert is the reference: one row per transaction.
func (db *database) insert() write {
	sql := in(insertSQL)
	return func(ctx context.Context, stream eventstore.StreamID, after eventstore.Version) (int, error) {
		id, err := uuid.NewV7()
		if err != nil {
			return 0, err
		}
		_, err = db.pool.Exec(ctx, sql, stream.String(), int64(after)+1, [16]byte(id), db.draft.Type, db.draft.Data)
		if err != nil {
			return 0, err
		}
		db.inserted.Add(1)
		return 1, nil
	}
}

// append appends the given number of events at once.
func (db *database) append(events int) write {
	drafts := slices.Repeat([]eventstore.Draft{db.draft}, events)
	return func(ctx context.Context, stream eventstore.StreamID, after eventstore.Version) (int, error) {
		if _, err := db.Append(ctx, stream, after, drafts...); err != nil {
			return 0, err
		}
		db.appended.Add(int64(events))
		return events, nil
	}
}

// to appends single events to the streams that pick returns, at any version.
func (db *database) to(pick func() eventstore.StreamID) write {
	one := db.append(1)
	return func(ctx context.Context, _ eventstore.StreamID, _ eventstore.Version) (int, error) {
		return one(ctx, pick(), eventstore.Any)
	}
}

// by lets several writers write, each to a new stream of its own.
func (m meter) by(writers int, write write) work {
	return func(ctx context.Context, d time.Duration) (tally, error) {
		return m.on(newStreams(writers), write)(ctx, d)
	}
}

// on lets one writer per stream write to it, each at least once, however busy the machine is.
func (m meter) on(streams []eventstore.StreamID, write write) work {
	return func(ctx context.Context, d time.Duration) (tally, error) {
		var stored atomic.Int64
		used, start := m.start(), time.Now()
		group, ctx := errgroup.WithContext(ctx)
		for _, stream := range streams {
			group.Go(func() error {
				for after := eventstore.Version(0); after == 0 || time.Since(start) < d; {
					n, err := write(ctx, stream, after)
					if err != nil {
						return err
					}
					after += eventstore.Version(n)
					stored.Add(int64(n))
				}
				return nil
			})
		}
		err := group.Wait()
		took := time.Since(start)
		return tally{int(stored.Load()), took, used()}, err
	}
}

// appendTargets are the targets for single appends: how many times as fast as INSERT, by the number of writers.
var appendTargets = map[int]float64{1: 0.85, 16: 1.5, 256: 4.5}

func (b *bench) append(ctx context.Context) error {
	b.section("Append", "Events per second. The reference is as many writers that INSERT one row per transaction, over the same pool of "+
		fmt.Sprint(connections)+" connections. On one hot stream all writers append to the same stream, and the reference has one stream per writer.",
		append([]string{"append", "writers"}, columns("INSERT")...)...)
	numbers := []int{1, 16, 64, 256, 1024}
	if b.short {
		numbers = []int{1, 16, 256}
	}
	plot := appendPlot()
	for _, kind := range []struct {
		name   string
		writes func(*database) write
	}{
		{"single events", func(db *database) write { return db.append(1) }},
		{"batches of 10", func(db *database) write { return db.append(10) }},
		{"one hot stream", func(db *database) write {
			stream := newStream()
			return db.to(func() eventstore.StreamID { return stream })
		}},
	} {
		var line []point
		for _, writers := range numbers {
			var c comparison
			err := b.database(ctx, func(db *database) (err error) {
				c, err = compare(ctx, b.duration(), db.by(writers, db.insert()), db.by(writers, kind.writes(db)))
				return err
			})
			if err != nil {
				return fmt.Errorf("%s, %d writers: %w", kind.name, writers, err)
			}
			b.row(append([]string{kind.name, whole(writers)}, c.cells()...)...)
			line = append(line, point{float64(writers), c.ratio()})
			if want, ok := appendTargets[writers]; ok && kind.name == "single events" {
				b.target(fmt.Sprintf("append to INSERT, writers: %d", writers), c.ratio(), want)
			}
		}
		plot.line(kind.name, line...)
	}
	for writers, want := range appendTargets {
		plot.mark(point{float64(writers), want})
	}
	return b.plot("append.svg", plot)
}
