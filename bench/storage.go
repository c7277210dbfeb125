package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// storage is what a log takes on disk, and how long VACUUM takes.
type storage struct {
	relations []relation    // the table first, then the indexes that are not empty
	filled    int           // how many events are new to the first VACUUM
	vacuum    time.Duration // the first VACUUM after they were filled in
	again     time.Duration // a VACUUM right after it, for which nothing is new
}

// relation is the table of events or one of its indexes.
type relation struct {
	Name  string
	Bytes int64
}

const storageSQL = `
select case relkind when 'r' then 'table' else relname::text end as name, pg_table_size(oid) as bytes
  from pg_class
 where reltuples > 0
   and (oid = $1::text::regclass or oid in (select indexrelid from pg_index where indrelid = $1::text::regclass))
 order by relkind <> 'r', relname`

// measureStorage measures a log into which events were just filled.
func (db *database) measureStorage(ctx context.Context, filled int) (s storage, err error) {
	s.filled = filled
	for _, took := range []*time.Duration{&s.vacuum, &s.again} {
		start := time.Now()
		if _, err := db.exec(ctx, vacuumSQL); err != nil {
			return s, err
		}
		*took = time.Since(start)
	}
	rows, err := db.pool.Query(ctx, storageSQL, in("SCHEMA.events"))
	if err != nil {
		return s, err
	}
	s.relations, err = pgx.CollectRows(rows, pgx.RowToStructByName[relation])
	return s, err
}

// compareStorage adds a table and a plot of the storage of each size.
func (b *bench) compareStorage(sizes []size) error {
	heads := []string{"log"}
	for _, r := range sizes[0].relations {
		heads = append(heads, r.Name)
	}
	b.section("Growth of storage", "The bytes that an event with a payload of 200 bytes takes in the table, and in each index that is not empty. Then how long "+
		"VACUUM (ANALYZE) takes after the log has grown from the size before, and how long it takes when nothing is new.",
		append(heads, "VACUUM", "again")...)
	lines := make([][]point, len(sizes[0].relations))
	for _, s := range sizes {
		cells := []string{whole(s.events)}
		for i, r := range s.relations {
			bytes := float64(r.Bytes) / float64(s.events)
			cells = append(cells, fmt.Sprintf("%.0f", bytes))
			lines[i] = append(lines[i], point{float64(s.events), bytes})
		}
		b.row(append(cells, millis(s.vacuum), millis(s.again))...)
	}
	plot := newChart("Storage: bytes per event", "events in the log", logSizes,
		map[float64]string{1: "1", 2: "2", 5: "5", 10: "10", 20: "20", 50: "50", 100: "100", 200: "200", 500: "500"})
	for i, r := range sizes[0].relations {
		plot.line(r.Name, lines[i]...)
	}
	return b.plot("storage.svg", plot)
}
