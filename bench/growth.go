package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/tidemark-es/tidemark/eventstore"
)

const (
	growthWriters = 64
	growthLength  = 100 // events of a stream
	tailLength    = 1000
)

// size holds the measurements of a log of one size.
type size struct {
	events     int
	fresh, old comparison // appends to new streams, and to old streams from the whole log
	load, tail time.Duration
	storage
}

// sizes returns 10,000 and its tenfolds below -max, and -max.
func (b *bench) sizes() (sizes []int) {
	for n := 10_000; n < b.max; n *= 10 {
		sizes = append(sizes, n)
	}
	return append(sizes, b.max)
}

func (b *bench) growth(ctx context.Context) error {
	b.section("Growth", fmt.Sprintf("Events per second of %d writers while the log grows (by less than its size during a measurement). The reference is "+
		"INSERT into a table that is kept small. First each writer appends to a new stream. Then it appends each event to a random "+
		"old stream, which has %d events or more. Keys are UUIDv7.", growthWriters, growthLength),
		append([]string{"log", "streams"}, columns("INSERT")...)...)
	var measured []size
	err := b.database(ctx, func(db *database) error {
		var streams []eventstore.StreamID
		for _, events := range b.sizes() {
			before := int(db.appended.Load())
			filled, err := b.grow(ctx, db, events)
			if err != nil {
				return err
			}
			streams = append(streams, filled...)
			s, err := b.measure(ctx, db, streams, events-before)
			if err != nil {
				return fmt.Errorf("at %d events: %w", events, err)
			}
			measured = append(measured, s)
			b.row(append([]string{whole(s.events), "new"}, s.fresh.cells()...)...)
			b.row(append([]string{whole(s.events), "old"}, s.old.cells()...)...)
		}
		return nil
	})
	if err != nil {
		return err
	}
	b.section("Growth of reading", fmt.Sprintf("The median time to load an aggregate of %d events, and to read the last %d events of the log.", growthLength, tailLength),
		"log", "load", "tail")
	for _, s := range measured {
		b.row(whole(s.events), millis(s.load), millis(s.tail))
	}
	if err := b.compareStorage(measured); err != nil {
		return err
	}
	return b.compareSizes(measured)
}

// compareSizes adds the targets and the plot: the figures of each size relative to those at 100,000 events, or at the
// smallest size if 100,000 was not measured.
func (b *bench) compareSizes(sizes []size) error {
	first, last := sizes[0], sizes[len(sizes)-1]
	for _, s := range sizes {
		if s.events == 100_000 {
			first = s
		}
	}
	to := fmt.Sprintf("%s events to %s, append to ", whole(last.events), whole(first.events))
	b.target(to+"new streams", last.fresh.ratio()/first.fresh.ratio(), 0.8)
	b.target(to+"old streams", last.old.ratio()/first.old.ratio(), 0.8)
	from := fmt.Sprintf("%s events to %s, time to ", whole(first.events), whole(last.events))
	b.target(from+fmt.Sprintf("load %d events", growthLength), first.load.Seconds()/last.load.Seconds(), 0.8)
	b.target(from+"read the tail", first.tail.Seconds()/last.tail.Seconds(), 0.8)

	plot := growthPlot(whole(first.events))
	for _, what := range []struct {
		name string
		of   func(size) float64
	}{
		{"append rate, new streams", func(s size) float64 { return s.fresh.ratio() }},
		{"append rate, old streams", func(s size) float64 { return s.old.ratio() }},
		{"time to load 100 events", func(s size) float64 { return s.load.Seconds() }},
		{"time to read the tail", func(s size) float64 { return s.tail.Seconds() }},
		{"time of VACUUM per new event", func(s size) float64 { return s.vacuum.Seconds() / float64(s.filled) }},
	} {
		var line []point
		for _, s := range sizes {
			line = append(line, point{float64(s.events), what.of(s) / what.of(first)})
		}
		plot.line(what.name, line...)
	}
	plot.mark(point{float64(last.events), 0.8})
	plot.mark(point{float64(last.events), 1 / 0.8})
	return b.plot("growth.svg", plot)
}

// grow fills the log up to the given number of events and returns the new streams. Call settle before a measurement.
func (b *bench) grow(ctx context.Context, db *database, events int) (streams []eventstore.StreamID, err error) {
	const step = 200_000
	begun, start := int(db.appended.Load()), time.Now()
	for n := begun; n < events; n = int(db.appended.Load()) {
		filled, err := db.fill(ctx, min(step, events-n), growthLength)
		if err != nil {
			return nil, err
		}
		streams = append(streams, filled...)
		if n := int(db.appended.Load()); events > 5*step && (n-begun)/step%5 == 0 {
			b.progress("%s of %s events, %.0f/s", whole(n), whole(events), float64(n-begun)/time.Since(start).Seconds())
		}
	}
	return streams, nil
}

// measure measures a log with these streams, after the last events were filled in. Streams at even indexes do not
// change, so that they can be loaded. Streams at odd indexes are appended to.
func (b *bench) measure(ctx context.Context, db *database, streams []eventstore.StreamID, filled int) (s size, err error) {
	s.events = int(db.appended.Load())
	if s.storage, err = db.measureStorage(ctx, filled); err != nil {
		return s, err
	}
	if err := db.settle(ctx); err != nil {
		return s, err
	}
	if s.load, err = b.median(func() error { return db.load(ctx, streams[rand.N(len(streams)/2)*2], growthLength) }); err != nil {
		return s, err
	}
	var after eventstore.Position
	tail := db.pool.QueryRow(ctx, in(`select position from SCHEMA.events order by position desc offset $1 limit 1`), tailLength)
	if err := tail.Scan(&after); err != nil {
		return s, err
	}
	if s.tail, err = b.median(func() error { return db.readAll(ctx, after, tailLength, raw) }); err != nil {
		return s, err
	}
	// A small log is measured for a short time, because otherwise it would become a large one.
	d := min(b.duration(), time.Duration(s.events)*time.Second/100_000)
	if s.fresh, err = compare(ctx, d, db.small(), db.by(growthWriters, db.append(1))); err != nil {
		return s, err
	}
	old := db.to(func() eventstore.StreamID { return streams[rand.N(len(streams)/2)*2+1] })
	s.old, err = compare(ctx, d, db.small(), db.by(growthWriters, old))
	return s, err
}

// small is the reference: it empties a table and then inserts into it.
func (db *database) small() work {
	insert := db.by(growthWriters, db.insert())
	return func(ctx context.Context, d time.Duration) (tally, error) {
		if err := db.check(ctx, "plain", &db.inserted); err != nil {
			return tally{}, err
		}
		if _, err := db.exec(ctx, `truncate SCHEMA.plain`); err != nil {
			return tally{}, err
		}
		db.inserted.Store(0)
		return insert(ctx, d)
	}
}

// median repeats do for a third of a measurement, at least 10 times, and returns the median of its durations.
func (b *bench) median(do func() error) (time.Duration, error) {
	var took []time.Duration
	for start := time.Now(); len(took) < 10 || time.Since(start) < b.duration()/3; {
		begun := time.Now()
		if err := do(); err != nil {
			return 0, err
		}
		took = append(took, time.Since(begun))
	}
	return percentile(took, 50), nil
}
