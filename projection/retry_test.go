package projection_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// TestRetryAppends: an event that a handler appends in its transaction is stored once, in a retry too, and has the
// handled event as its cause.
func TestRetryAppends(t *testing.T) {
	t.Parallel()
	f := setup(t)
	var floor atomic.Int64
	r, _ := f.start(quiet, f.store, kinds[0].make(f, "follow", projection.Options{}, func(ctx context.Context, tx pgx.Tx, e eventstore.Event[counted]) error {
		defer func() { _ = tx.Rollback(ctx) }() // a common habit, which must do no harm
		draft, err := other.Encode(e.Data)
		if err == nil {
			_, err = f.store.WithTx(tx).Append(ctx, eventstore.StreamID{Category: "follower", Key: e.Stream.Key}, eventstore.Any, draft)
		}
		if err == nil && int64(e.Data.N) < floor.Load() {
			panic("too low")
		}
		return err
	}))
	f.wait(r, f.put("a", 1, -1, 2))
	floor.Store(-1000)
	f.retry(r, 2, "follow")
	f.wait(r, f.put("a", 3))
	f.checkFold(kinds[0], r, "follow")
	f.equal("appended events", map[string]string{"follower-a": "1 -1 2 3 "}, f.streams(`
		select o.stream, (o.data->>'N') || ' '
		  from tidemark.events o
		  join tidemark.events c on c.id::text = o.metadata->>'causation_id' and c.data->>'N' = o.data->>'N'
		 where o.type = 'other'
		 order by o.position`))
}

// TestRetryCommit: a handler that commits or rolls back in a retry cannot store a part of the retry.
func TestRetryCommit(t *testing.T) {
	t.Parallel()
	for _, sql := range []string{`commit`, `rollback`, `rollback; begin`, `rollback and chain`} {
		t.Run(sql, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			var repaired atomic.Bool
			r, _ := f.start(quiet, f.store, kinds[0].make(f, "commits", projection.Options{}, func(ctx context.Context, tx pgx.Tx, e eventstore.Event[counted]) error {
				if e.Data.N == bad && !repaired.Load() {
					return execute(sql)(ctx, tx, e)
				}
				return nil
			}))
			f.wait(r, f.put("a", bad, 0, 0))
			for range 2 {
				if n, err := r.Operator().Retry(t.Context(), projection.Ref{Name: "commits", Version: projection.Live}); n != 0 || err == nil {
					t.Errorf("retry: %d, %v; want it to fail again", n, err)
				}
				f.checkFold(kinds[0], r, "commits")
			}
			repaired.Store(true)
			f.retry(r, 3, "commits")
			f.checkFold(kinds[0], r, "commits")
		})
	}
}

// TestKeylessLetters: an event without a key is parked under its stream. When it has a key, because the payload was
// edited or the code was fixed, it is handled under that key.
func TestKeylessLetters(t *testing.T) {
	t.Parallel()
	type row struct {
		Key string `db:"key,key"`
		Sum int
	}
	for name, partitions := range map[string]int{"one partition": 1, "partitions": 5} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			var fixed atomic.Bool
			key := func(e eventstore.Event[counted]) string {
				switch {
				case fixed.Load() || e.Data.N < 10:
					return fmt.Sprint("key ", e.Data.N%10)
				case e.Data.N < 20:
					return ""
				case e.Data.N < 30:
					return "\x00"
				case e.Data.N < 40:
					return "\xff"
				}
				panic("no key")
			}
			sums := projection.NewTable[row]("sums", &projection.Options{Partitions: partitions, DDL: `create table {sums} (key text primary key, sum int not null)`},
				projection.Fold(counting, key, func(row *row, e eventstore.Event[counted]) projection.Op {
					row.Sum += e.Data.N
					return projection.Put
				}))
			keyed := projection.New("keyed", &projection.Options{Partitions: partitions},
				projection.OnKeyed(counting, key, func(ctx context.Context, tx pgx.Tx, e eventstore.Event[counted]) error {
					_, err := tx.Exec(ctx, `insert into model values ($1, $2, $3)`, key(e), e.Position, e.Data.N)
					return err
				}))
			r, _ := f.start(quiet, f.store, sums, keyed)
			for n, key := range []string{"empty", "nul", "invalid", "panic"} {
				f.put(key, 10*(n+1)+1)
			}
			f.putDrafts("payload", eventstore.Draft{Type: "counted", Data: []byte(`{"N":"six"}`)})
			f.putDrafts("schema", eventstore.Draft{Type: "counted", Schema: 99, Data: []byte(`{"N":7}`)})
			f.wait(r, f.put("good", 1, 2))
			check := func(want map[string]string) {
				t.Helper()
				f.equal("table", want, f.streams(`select key, sum || '' from sums`))
				f.equal("handlers", want, f.streams(`select name, sum(n) || '' from model group by name`))
			}
			check(map[string]string{"key 1": "1", "key 2": "2"})
			for _, p := range []string{"sums", "keyed"} {
				heads, err := r.Operator().DeadLetters(t.Context(), projection.Ref{Name: p, Version: projection.Live}, "", 0, 10)
				if err != nil || len(heads) != 6 {
					t.Fatalf("%s: %+v, %v; want 6 dead letters", p, heads, err)
				}
				if n, err := r.Operator().Retry(t.Context(), projection.Ref{Name: p, Version: projection.Live}); n != 0 || err == nil {
					t.Errorf("%s: retry: %d, %v; want it to fail", p, n, err)
				}
				if n, err := r.Operator().Edit(t.Context(), projection.Ref{Name: p, Version: projection.Live}, "counter-payload", heads[4].Position, json.RawMessage(`{"N":6}`)); n != 1 || err != nil {
					t.Errorf("%s: edit: %d, %v", p, n, err)
				}
			}
			check(map[string]string{"key 1": "1", "key 2": "2", "key 6": "6"})
			fixed.Store(true)
			for _, p := range []string{"sums", "keyed"} {
				if n, err := r.Operator().Retry(t.Context(), projection.Ref{Name: p, Version: projection.Live}); n != 4 || err == nil || !strings.Contains(err.Error(), "schema 99") {
					t.Errorf("%s: retry: %d, %v; want 4, and an error about schema 99", p, n, err)
				}
			}
			check(map[string]string{"key 1": fmt.Sprint(1 + 11 + 21 + 31 + 41), "key 2": "2", "key 6": "6"})
			f.wait(r, f.put("good", 1))
			check(map[string]string{"key 1": fmt.Sprint(2 + 11 + 21 + 31 + 41), "key 2": "2", "key 6": "6"})
		})
	}
}
