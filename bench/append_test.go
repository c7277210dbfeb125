package bench_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"github.com/tidemark-es/tidemark/eventstore"
)

// write stores one event at a version of a stream: 1 for the first.
type write func(ctx context.Context, stream eventstore.StreamID, version eventstore.Version) error

const insertSQL = `
insert into SCHEMA.plain
       (position, stream, version, id, type, schema, data, metadata, recorded_at)
values (nextval('SCHEMA.plain_position_seq'), $1, $2, $3, $4, 1, $5, null, clock_timestamp())`

// inserter is the reference: one row per transaction.
func inserter(tb testing.TB, db database) write {
	draft, sql := newDraft(tb), db.sql(insertSQL)
	return func(ctx context.Context, stream eventstore.StreamID, version eventstore.Version) error {
		id, err := uuid.NewV7()
		if err != nil {
			return err
		}
		_, err = db.pool.Exec(ctx, sql, stream.String(), int64(version), [16]byte(id), draft.Type, draft.Data)
		return err
	}
}

func appender(tb testing.TB, db database) write {
	draft := newDraft(tb)
	return func(ctx context.Context, stream eventstore.StreamID, version eventstore.Version) error {
		_, err := db.Append(ctx, stream, version-1, draft)
		return err
	}
}

var streams atomic.Int64

// newStream returns a stream that nobody has written to.
func newStream() eventstore.StreamID {
	return eventstore.StreamID{Category: "account", Key: fmt.Sprint(streams.Add(1))}
}

// run stores n events with several writers, each on a stream of its own.
func run(tb testing.TB, write write, writers, n int) {
	var left atomic.Int64
	left.Store(int64(n))
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			stream := newStream()
			for version := eventstore.Version(1); left.Add(-1) >= 0; version++ {
				if err := write(context.Background(), stream, version); err != nil {
					tb.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkAppend(b *testing.B) {
	db := open(b, "bench_append")
	insert, add := inserter(b, db), appender(b, db)
	for _, writers := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			compare(b, 1, "insert",
				func(n int) { run(b, insert, writers, n) },
				func(n int) { run(b, add, writers, n) })
		})
	}
}

// TestAppend: both ways of writing store the same.
func TestAppend(t *testing.T) {
	db := open(t, "bench_append_test")
	run(t, inserter(t, db), 8, 100)
	run(t, appender(t, db), 8, 100)
	for _, table := range []string{"plain", "events"} {
		if n := db.exec(t, `select from SCHEMA.`+table+` where length(data::text) = 200`); n != 100 {
			t.Errorf("%s has %d events of 200 bytes, want 100", table, n)
		}
	}
}
