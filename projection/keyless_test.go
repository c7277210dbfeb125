package projection_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// owned is an event whose key is in its payload.
type owned struct {
	Owner string
	N     int
}

var ownedCodec = codec.New(codec.Of("owned", func(e owned) owned { return e }))

// ownedRow is the row of an owner.
type ownedRow struct {
	Owner string `db:"owner,key"`
	Sum   int
}

const ownedDDL = `create table {%s} (owner text primary key, sum int not null)`

// owners has two projections that add up numbers by owner in 16 partitions. One has a fold, and the other a handler.
type owners struct {
	*fixture
	key   atomic.Pointer[func(eventstore.Event[owned]) string]
	fixed atomic.Bool
}

func (o *owners) keyOf(e eventstore.Event[owned]) string {
	if key := o.key.Load(); key != nil {
		return (*key)(e)
	}
	return e.Data.Owner
}

func (o *owners) projections() []*projection.Projection {
	bad := func(e eventstore.Event[owned]) bool { return e.Data.N < 0 && !o.fixed.Load() }
	table := projection.NewTable("sums", &projection.Options{Partitions: 16, DDL: fmt.Sprintf(ownedDDL, "sums")},
		projection.Fold(ownedCodec, o.keyOf, func(row *ownedRow, e eventstore.Event[owned]) projection.Op {
			if bad(e) {
				return projection.Fail(errors.New("negative"))
			}
			row.Sum += e.Data.N
			return projection.Put
		}))
	handlers := projection.New("model", &projection.Options{Partitions: 16, MaxAttempts: 1},
		projection.OnKeyed(ownedCodec, o.keyOf, func(ctx context.Context, tx pgx.Tx, e eventstore.Event[owned]) error {
			if bad(e) {
				return errors.New("negative")
			}
			_, err := tx.Exec(ctx, `insert into model (name, n) values ($1, $2)`, e.Data.Owner, e.Data.N)
			return err
		}))
	return []*projection.Projection{table, handlers}
}

// append stores an event with the number n for each owner.
func (o *owners) append(n int, names ...string) (last eventstore.Position) {
	o.Helper()
	for _, name := range names {
		draft, err := ownedCodec.Encode(owned{name, n})
		if err != nil {
			o.Fatal(err)
		}
		last = o.putDrafts("of-"+name, draft)
	}
	return last
}

// sums checks both read models.
func (o *owners) sums(want map[string]string) {
	o.Helper()
	o.equal("table", want, o.streams(`select owner, sum || '' from sums`))
	o.equal("handlers", want, o.streams(`select name, sum(n) || '' from model group by name`))
}

var eight = []string{"a", "b", "c", "d", "e", "f", "g", "h"} // keys of different partitions

// TestRetryKeepsWhatLostItsKey: an event is parked under its key. If it has no key or another key when it is tried
// again, it stays parked, and Edit or Retry returns an error that says why.
func TestRetryKeepsWhatLostItsKey(t *testing.T) {
	t.Parallel()
	o := &owners{fixture: setup(t)}
	r, _ := o.start(quiet, o.store, o.projections()...)
	o.wait(r, o.append(-1, eight...))
	parked := func(what string) {
		t.Helper()
		o.sums(map[string]string{})
		for _, p := range []string{"sums", "model"} {
			if n := o.statusOf(r, p).Parked; n != len(eight) {
				t.Errorf("%s: %s has %d events parked, want all %d", what, p, n, len(eight))
			}
		}
	}
	parked("before")
	edit := func(data string, refused bool) {
		t.Helper()
		for _, p := range []string{"sums", "model"} {
			for n, key := range eight {
				handled, err := r.Operator().Edit(t.Context(), projection.Ref{Name: p, Version: projection.Live}, key, eventstore.Position(n+1), json.RawMessage(data))
				if handled != 0 || err == nil || refused != errors.Is(err, projection.ErrRefused) {
					t.Errorf("%s: edit %s to %s: %d, %v", p, key, data, handled, err)
				}
			}
		}
		parked(data)
	}
	edit(`{"Owner":7,"N":1}`, false)
	edit(`{"Owner":"","N":1}`, false)
	edit(`{"Owner":"another","N":1}`, true)
	o.fixed.Store(true)
	for name, key := range map[string]func(eventstore.Event[owned]) string{
		"panics":  func(eventstore.Event[owned]) string { panic("no key") },
		"another": func(e eventstore.Event[owned]) string { return "another " + e.Data.Owner },
		"none":    func(eventstore.Event[owned]) string { return "" },
	} {
		o.key.Store(&key)
		for _, p := range []string{"sums", "model"} {
			if n, err := r.Operator().Retry(t.Context(), projection.Ref{Name: p, Version: projection.Live}); n != 0 || err == nil {
				t.Errorf("%s: key function %s: %d, %v", p, name, n, err)
			}
		}
		parked(name)
	}
	o.key.Store(nil)
	want := make(map[string]string)
	for _, p := range []string{"sums", "model"} {
		for n, key := range eight {
			data := fmt.Sprintf(`{"Owner":%q,"N":%d}`, key, n)
			handled, err := r.Operator().Edit(t.Context(), projection.Ref{Name: p, Version: projection.Live}, key, eventstore.Position(n+1), json.RawMessage(data))
			if handled != 1 || err != nil {
				t.Errorf("%s: edit: %d, %v", p, handled, err)
			}
			want[key] = fmt.Sprint(n)
		}
	}
	o.sums(want)
}

// TestRetryOfUnknownType: a release that does not know the type of a dead letter refuses to retry it, and can skip it.
func TestRetryOfUnknownType(t *testing.T) {
	t.Parallel()
	f := setup(t)
	panics := func(context.Context, pgx.Tx, eventstore.Event[counted]) error { panic("bad") }
	r, stop := f.start(quiet, f.store, handling(panics, counting, other))
	f.wait(r, f.append(other, 1))
	stop()
	old, err := projection.NewRunner(f.pool, f.store, quiet, handling(panics, counting))
	if err != nil {
		t.Fatal(err)
	}
	if n, err := old.Operator().Retry(t.Context(), projection.Ref{Name: "a", Version: projection.Live}); n != 0 || !errors.Is(err, projection.ErrRefused) {
		t.Errorf("retry: %d, %v; want it refused", n, err)
	}
	f.equal("parked", 1, f.statusOf(old, "a").Parked)
	if n, err := old.Operator().Skip(t.Context(), projection.Ref{Name: "a", Version: projection.Live}, "counter-a", 1, "unknown type"); n != 0 || err != nil {
		t.Errorf("skip: %d, %v", n, err)
	}
	f.equal("parked after Skip", 0, f.statusOf(old, "a").Parked)
}

// TestRebuildKeyByOldRelease: a release that does not know all types of a projection refuses to rebuild a key, because
// it would make a wrong row.
func TestRebuildKeyByOldRelease(t *testing.T) {
	t.Parallel()
	f := setup(t)
	type row struct {
		Stream string `db:"stream,key"`
		Events int
	}
	release := func(codecs ...*codec.Codec[counted]) *projection.Projection {
		var folds []projection.FoldSource[row]
		for _, c := range codecs {
			folds = append(folds, projection.Fold(c, byStream, func(row *row, _ eventstore.Event[counted]) projection.Op {
				row.Events++
				return projection.Put
			}))
		}
		ddl := `create table {rows} (stream text primary key, events int not null)`
		return projection.NewTable("rows", &projection.Options{DDL: ddl}, folds...)
	}
	r, _ := f.start(quiet, f.store, release(counting, other))
	f.append(counting, 1)
	f.wait(r, f.append(other, 1))
	old, err := projection.NewRunner(f.pool, f.store, quiet, release(counting))
	if err != nil {
		t.Fatal(err)
	}
	if err := old.Operator().RebuildKey(t.Context(), projection.Ref{Name: "rows", Version: projection.Live}, "a"); !errors.Is(err, projection.ErrRefused) {
		t.Errorf("by the old release: %v, want it refused", err)
	}
	if err := r.Operator().RebuildKey(t.Context(), projection.Ref{Name: "rows", Version: projection.Live}, "a"); err != nil {
		t.Error(err)
	}
	f.equal("rows", map[string]string{"a": "2"}, f.streams(`select stream, events || '' from rows`))
}

// TestRebuildKeyAndKeyless: an event that was parked without a key, and has one now, is folded once. RebuildKey of its
// row is refused before the event is retried, and works after.
func TestRebuildKeyAndKeyless(t *testing.T) {
	t.Parallel()
	o := &owners{fixture: setup(t)}
	o.fixed.Store(true)
	keyless := func(eventstore.Event[owned]) string { return "" }
	o.key.Store(&keyless)
	r, _ := o.start(quiet, o.store, o.projections()...)
	o.wait(r, o.append(1, eight...))
	o.key.Store(nil)
	o.wait(r, o.append(10, eight...))
	rebuild := func(key string, refused bool) {
		t.Helper()
		err := r.Operator().RebuildKey(t.Context(), projection.Ref{Name: "sums", Version: projection.Live}, key)
		if refused != errors.Is(err, projection.ErrRefused) || err != nil && !refused {
			t.Errorf("rebuild %s: %v", key, err)
		}
	}
	want := make(map[string]string)
	for _, key := range eight {
		rebuild(key, true)
		rebuild("counter-of-"+key, false) // no row has the stream as its key, and the stream's dead letter belongs to another row
		want[key] = "10"
	}
	o.sums(want)
	for _, p := range []string{"sums", "model"} {
		o.retry(r, len(eight), p)
	}
	for _, key := range eight {
		want[key] = "11"
	}
	o.sums(want)
	for _, key := range eight {
		rebuild(key, false)
	}
	o.sums(want)
	o.equal("parked", 0, o.statusOf(r, "sums").Parked)
}
