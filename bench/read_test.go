package bench_test

import (
	"context"
	"slices"
	"testing"

	"github.com/tidemark-es/tidemark/eventstore"
)

// fill stores events in streams of a thousand, and lets Postgres tidy up behind.
func fill(tb testing.TB, db database, thousands int) {
	tb.Helper()
	events := slices.Repeat([]eventstore.Draft{newDraft(tb)}, 1000)
	for range thousands {
		if _, err := db.Append(context.Background(), newStream(), eventstore.NoStream, events...); err != nil {
			tb.Fatal(err)
		}
	}
	db.exec(tb, `vacuum analyze SCHEMA.events`)
}

// copySQL is the limit of reading the log in its order: no network and no client take part.
const copySQL = `
copy (select position, stream, version, id, type, schema, recorded_at, metadata, data
        from SCHEMA.events
       order by position)
  to '/dev/null' (format binary)`

func copyOut(tb testing.TB, db database) int { return db.exec(tb, copySQL) }

// uses of an event that was read.
var uses = map[string]func(eventstore.Raw) error{
	"raw": func(eventstore.Raw) error { return nil },
	"decoded": func(event eventstore.Raw) error {
		_, err := codec.Decode(event)
		return err
	},
}

// read reads the whole log and returns how many events there are.
func read(tb testing.TB, db database, use func(eventstore.Raw) error) (n int) {
	for event, err := range db.ReadAll(context.Background(), 0, eventstore.Filter{}) {
		if err == nil {
			err = use(event)
		}
		if err != nil {
			tb.Fatal(err)
		}
		n++
	}
	return n
}

func BenchmarkRead(b *testing.B) {
	thousands := 200
	if testing.Short() {
		thousands = 2
	}
	db := open(b, "bench_read")
	fill(b, db, thousands)
	for name, use := range uses {
		b.Run(name, func(b *testing.B) {
			compare(b, thousands*1000, "copy",
				func(n int) {
					for range n {
						copyOut(b, db)
					}
				},
				func(n int) {
					for range n {
						read(b, db, use)
					}
				})
		})
	}
}

// TestRead: every way of reading reads everything.
func TestRead(t *testing.T) {
	db := open(t, "bench_read_test")
	fill(t, db, 3)
	if n := copyOut(t, db); n != 3000 {
		t.Errorf("copy: %d events, want 3000", n)
	}
	for name, use := range uses {
		if n := read(t, db, use); n != 3000 {
			t.Errorf("%s: %d events, want 3000", name, n)
		}
	}
}
