package main

import (
	"context"
	"fmt"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"time"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

func (b *bench) rebuildGrowth(ctx context.Context) error {
	b.section("Projections over a log that grows", fmt.Sprintf("A projection with a table of %s keys catches up from the beginning of the log.", whole(manyKeys)),
		slices.Concat([]string{"log", "seconds"}, columns("COPY"), []string{"memory"})...)
	var sizes []int
	var all []rebuilds
	err := b.database(ctx, func(db *database) error {
		for _, events := range b.sizes() {
			if _, err := b.grow(ctx, db, events); err != nil {
				return err
			}
			if err := db.settle(ctx); err != nil {
				return err
			}
			r, err := b.rebuilds(ctx, db, events, 1, tableOf(manyKeys)(1))
			if err != nil {
				return fmt.Errorf("%d events: %w", events, err)
			}
			seconds := ratio(float64(events) / r.measured.rate())
			b.row(slices.Concat([]string{whole(events), seconds}, r.cells(), []string{megabytes(r.memory)})...)
			sizes, all = append(sizes, events), append(all, r)
		}
		return nil
	})
	if err != nil {
		return err
	}
	first, last := 0, len(sizes)-1
	for n, events := range sizes {
		if events == 100_000 {
			first = n
		}
	}
	b.target(fmt.Sprintf("rebuild, %s events to %s", whole(sizes[last]), whole(sizes[first])), all[last].measured.rate()/all[first].measured.rate(), 0.8)
	plot := rebuildPlot(whole(sizes[first]))
	var rebuild, copied []point
	for n, r := range all {
		rebuild = append(rebuild, point{float64(sizes[n]), all[first].measured.rate() / r.measured.rate()})
		copied = append(copied, point{float64(sizes[n]), all[first].reference.rate() / r.reference.rate()})
	}
	plot.line("rebuilding a table, with checkpoints", rebuild...)
	plot.line("COPY of the log", copied...)
	plot.mark(point{float64(sizes[last]), 1 / 0.8})
	return b.plot("rebuild.svg", plot)
}

func rebuildPlot(first string) *chart {
	return newChart("Rebuild: times the time per event at "+first+" events", "events in the log",
		logSizes,
		map[float64]string{0.25: "0.25", 0.5: "0.5", 0.8: "0.8", 1: "1", 1.25: "1.25", 2: "2", 4: "4", 8: "8"}).from(0.5)
}

// rebuilds compares a projection that catches up with COPY.
type rebuilds struct {
	comparison
	memory int64 // bytes
}

// rebuilds lets a projection catch up with the first events of the log, in alternate turns with COPY of the whole log.
func (b *bench) rebuilds(ctx context.Context, db *database, events, rows int, p *projection.Projection) (r rebuilds, err error) {
	for start, turn := time.Now(), 0; turn < 2 || time.Since(start) < b.duration(); turn++ {
		copied, err := db.again(int(db.appended.Load()), db.copyOut)(ctx, 1)
		if err != nil {
			return r, err
		}
		used := watchMemory()
		t, err := b.rebuild(ctx, db, events, rows, p)
		r.memory = max(r.memory, used())
		if err != nil {
			return r, err
		}
		r.reference.add(copied)
		r.measured.add(t)
		ratio := t.rate() / copied.rate()
		if turn == 0 {
			r.low, r.high = ratio, ratio
		}
		r.low, r.high = min(r.low, ratio), max(r.high, ratio)
	}
	return r, nil
}

// rebuild lets projections catch up with the first events of the log. Then it deletes their read model and checkpoints.
func (b *bench) rebuild(ctx context.Context, db *database, events, rows int, ps ...*projection.Projection) (t tally, err error) {
	var last eventstore.Position
	row := db.pool.QueryRow(ctx, in(`select position from SCHEMA.events order by position offset $1 limit 1`), events-1)
	if err := row.Scan(&last); err != nil {
		return t, err
	}
	// A projection that makes no progress is an error. The time is long enough for slow machines.
	ctx, cancel := context.WithTimeout(ctx, time.Minute+time.Duration(events)*time.Millisecond)
	defer cancel()
	used, start := b.start(), time.Now()
	err = b.project(ctx, ps, func(ctx context.Context, r *projection.Runner) error {
		err := r.Wait(ctx, last)
		t.took, t.cpu = time.Since(start), used()
		return err
	})
	if err != nil {
		return t, err
	}
	handled, err := db.handled(ctx, rows)
	if err != nil {
		return t, err
	}
	if t.events = handled / len(ps); t.events < events {
		return t, fmt.Errorf("%d projections have handled %d events, want %d each", len(ps), handled, events)
	}
	_, err = db.exec(ctx, `drop view if exists SCHEMA.balances; drop table if exists SCHEMA.balances_v1; delete from SCHEMA.projections`)
	return t, err
}

// watchMemory measures how much memory Go holds from the system. The function that it returns ends the measurement
// and returns the maximum, in bytes.
func watchMemory() (most func() int64) {
	debug.FreeOSMemory()
	sample := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	peak, stop, stopped := int64(0), make(chan struct{}), make(chan struct{})
	look := func() {
		metrics.Read(sample)
		peak = max(peak, int64(sample[0].Value.Uint64()-sample[1].Value.Uint64()))
	}
	go func() {
		defer close(stopped)
		every := time.NewTicker(10 * time.Millisecond)
		defer every.Stop()
		for {
			look()
			select {
			case <-every.C:
			case <-stop:
				return
			}
		}
	}()
	return func() int64 {
		close(stop)
		<-stopped
		look()
		return peak
	}
}

func megabytes(bytes int64) string { return english.Sprintf("%.0f MB", float64(bytes)/(1<<20)) }
