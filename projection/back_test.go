package projection_test

import (
	"context"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// TestLogWentBack: while a process runs, a failover loses the end of the log, and new events get positions that the
// process has already passed. The projection handles the new events, and a subscription of the process gets them.
func TestLogWentBack(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r, _ := f.start(quiet, f.store, record("a", nil))
	first := f.append(counting, 1)
	f.wait(r, first)
	var mu sync.Mutex
	heard := make(map[uuid.UUID]bool)
	hear := func(_ context.Context, e eventstore.Event[counted]) error {
		mu.Lock()
		defer mu.Unlock()
		heard[e.ID] = true
		return nil
	}
	heardAll := func(n int) func() bool {
		return func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(heard) == n
		}
	}
	if _, err := r.Subscribe(t.Context(), projection.Effect(counting, hear)); err != nil {
		t.Fatal(err)
	}
	last := f.append(counting, 4)
	f.wait(r, last)
	f.until("the subscription has got the first events", heardAll(4))

	tx, err := f.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	for _, sql := range []string{
		`alter table tidemark.events disable trigger events_immutable`,
		`delete from tidemark.events where version > 1`,
		`alter table tidemark.events enable trigger events_immutable`,
		`select setval('tidemark.events_position_seq', (select max(position) from tidemark.events))`,
		`update tidemark.projection_partitions set checkpoint = (select max(position) from tidemark.events)`,
		`delete from model where position > (select max(position) from tidemark.events)`,
	} {
		if _, err := tx.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	var drafts []eventstore.Draft
	for n := range 4 {
		draft, err := counting.Encode(counted{100 + n})
		if err != nil {
			t.Fatal(err)
		}
		drafts = append(drafts, draft)
	}
	receipt, err := f.store.WithTx(tx).Append(t.Context(), eventstore.StreamID{Category: "counter", Key: "a"}, 1, drafts...)
	if err != nil || receipt.Position != last {
		t.Fatalf("%+v, %v; want the position %d again", receipt, err, last)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.until("the projection has handled the new events", func() bool {
		return count(f, `select from model where n >= 100`) == 4
	})
	if n := count(f, `select from model`); n != 5 {
		t.Errorf("%d rows of 5 events", n)
	}
	f.until("the subscription has got the new events", heardAll(8))
}
