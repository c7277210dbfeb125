package projection_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

const (
	writeModel = `insert into model values ($1, $2, $3)`
	writingDDL = `create table {ledger} (position bigint primary key, n int check (n <> 13), owner int unique deferrable initially deferred)`
	writeRow   = `insert into {ledger} values ($1, $2, $3)`
)

// writing returns a projection that writes each event into its table by OnWrite, and counts the calls.
func writing(calls *atomic.Int64, wrong func(*pgx.Batch, eventstore.Event[counted]) error) *projection.Projection {
	return projection.New("ledger", &projection.Options{Tables: []string{"ledger"}, DDL: writingDDL, StopAfter: 100},
		projection.OnWrite(counting, nil, func(b *pgx.Batch, e eventstore.Event[counted]) error {
			calls.Add(1)
			b.Queue(writeRow, e.Position, 0, e.Position)
			if e.Data.N == bad {
				return wrong(b, e)
			}
			b.Queue(`update {ledger} set n = $2 where position = $1`, e.Position, e.Data.N)
			return nil
		}))
}

// TestOnWriteBlame: whatever fails, exactly the event that it is about becomes a dead letter. All other events are
// handled, in few calls where Postgres says which statement has failed.
func TestOnWriteBlame(t *testing.T) {
	t.Parallel()
	for name, way := range map[string]struct {
		wrong func(*pgx.Batch, eventstore.Event[counted]) error
		text  string // in the dead letter
		exact bool   // the error says which event has failed, so that the batch needs no halving
	}{
		"an error": {func(*pgx.Batch, eventstore.Event[counted]) error { return errors.New("not this one") }, "not this one", true},
		"a panic":  {func(*pgx.Batch, eventstore.Event[counted]) error { panic("not this one") }, "not this one", true},
		"a statement": {func(b *pgx.Batch, e eventstore.Event[counted]) error {
			b.Queue(`update {ledger} set n = 13 where position = $1`, e.Position)
			return nil
		}, "23514", true},
		"a key": {func(b *pgx.Batch, e eventstore.Event[counted]) error {
			b.Queue(writeRow, e.Position, 0, -e.Position)
			return nil
		}, "23505", true},
		"at the commit": {func(b *pgx.Batch, e eventstore.Event[counted]) error {
			b.Queue(writeRow, -e.Position, 0, e.Position)
			return nil
		}, "23505", false},
		"a syntax": {func(b *pgx.Batch, e eventstore.Event[counted]) error {
			b.Queue(`selekt 1`)
			return nil
		}, "42601", false},
		"an argument": {func(b *pgx.Batch, e eventstore.Event[counted]) error {
			b.Queue(`update {ledger} set n = $2 where position = $1`, e.Position, "no number")
			return nil
		}, "22P02", true},
		"an argument of another type": {func(b *pgx.Batch, e eventstore.Event[counted]) error {
			b.Queue(`update {ledger} set n = $2 where position = $1`, e.Position, struct{}{})
			return nil
		}, "unable to encode", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			var last eventstore.Position
			for n := range 40 {
				last = f.put(fmt.Sprint("k", n), 100+n)
				if n%20 == 7 {
					last = f.put(fmt.Sprint("k", n), bad, 1) // the third event waits behind the second
				}
			}
			var calls atomic.Int64
			r, _ := f.start(quiet, f.store, writing(&calls, way.wrong))
			f.wait(r, last)
			for _, key := range []string{"counter-k7", "counter-k27"} {
				letters := f.letters(r, "ledger", key, 0, 10)
				if len(letters) != 2 || !strings.Contains(letters[0], way.text) || !strings.Contains(letters[0], "1 wait") {
					t.Errorf("the letters of %s are %q, want one with %q, and one that waits", key, letters, way.text)
				}
			}
			f.equal("rows", int64(40), f.rollNumber(`select count(*) from ledger`))
			if n := calls.Load(); way.exact && n > 3*44 { // halving needs more than four calls an event
				t.Errorf("write was called %d times for 44 events: the batch was halved although the error says which event failed", n)
			}
			if s := f.statusOf(r, "ledger"); s.Handled != 40 || s.Parked != 4 {
				t.Errorf("%d events are handled and %d parked, want 40 and 4", s.Handled, s.Parked)
			}
		})
	}
}

// TestOnWriteOrder: statements run in the order of the events, also if the events are those of several sources.
func TestOnWriteOrder(t *testing.T) {
	t.Parallel()
	f := setup(t)
	write := func(b *pgx.Batch, e eventstore.Event[counted]) error {
		b.Queue(writeModel, "p", e.Position, e.Data.N)
		return nil
	}
	var last eventstore.Position
	for range 30 {
		f.append(counting, 1)
		last = f.append(other, 1)
	}
	batches := new(atomic.Int64)
	config := *quiet
	config.Observer.Batch = func(projection.BatchDone) { batches.Add(1) }
	r, _ := f.start(&config, f.store, projection.New("p", nil, projection.OnWrite(counting, nil, write), projection.OnWrite(other, nil, write)))
	f.wait(r, last)
	f.equal("rows out of order", int64(0), f.rollNumber(
		`select count(*) from (select position, lag(position) over (order by written) as earlier from model) w where earlier > position`))
	f.equal("rows", int64(60), f.rollNumber(`select count(*) from model`))
	if n := batches.Load(); n > 10 {
		t.Errorf("60 events took %d batches", n)
	}
}

// TestOnWriteNothing: an event may have no statements.
func TestOnWriteNothing(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r, _ := f.start(quiet, f.store, projection.New("p", nil, projection.OnWrite(counting, nil,
		func(*pgx.Batch, eventstore.Event[counted]) error { return nil })))
	f.wait(r, f.append(counting, 5))
	f.equal("handled", int64(5), f.statusOf(r, "p").Handled)
}

func TestOnWritePanics(t *testing.T) {
	t.Parallel()
	for name, call := range map[string]func(){
		"no function": func() { projection.OnWrite[counted](counting, nil, nil) },
		"no codec": func() {
			projection.OnWrite((*codec.Codec[counted])(nil), nil, func(*pgx.Batch, eventstore.Event[counted]) error { return nil })
		},
	} {
		func() {
			defer func() {
				if said := fmt.Sprint(recover()); !strings.Contains(said, "OnWrite") {
					t.Errorf("%s: %s, want a panic of OnWrite", name, said)
				}
			}()
			call()
		}()
	}
}
