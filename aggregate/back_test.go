package aggregate_test

import (
	"errors"
	"testing"

	"github.com/tidemark-es/tidemark/aggregate"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
)

// TestCacheOfAnotherHistory: after a failover or a restore the stream may be at the same version with other events. A
// cached state of the old events leads neither to an append nor to a refusal.
func TestCacheOfAnotherHistory(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	store, err := eventstore.New(pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	keeps := func() *repository {
		repo := made(aggregate.NewRepository(store, counters, &aggregate.Config{CacheSize: 10}))
		return repo
	}
	writes, refuses, idle := keeps(), keeps(), keeps()
	if _, err := writes.Update(t.Context(), "a", func(*counter) ([]event, error) { return []event{limited{1000}}, nil }); err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		if _, err := writes.Update(t.Context(), "a", add(n+1)); err != nil {
			t.Fatal(err)
		}
	}
	seen := func(on *int, err error) func(*counter) ([]event, error) {
		return func(c *counter) ([]event, error) { *on = c.Value; return nil, err }
	}
	refused := errors.New("refused")
	var on int
	for _, repo := range []*repository{refuses, idle} { // now both have the aggregate in the cache
		if _, err := repo.Update(t.Context(), "a", seen(&on, nil)); err != nil || on != 6 {
			t.Fatalf("decided on %d, %v; want 6", on, err)
		}
	}
	for _, sql := range []string{
		`alter table tidemark.events disable trigger events_immutable`,
		`delete from tidemark.events where version > 1`,
		`alter table tidemark.events enable trigger events_immutable`,
	} {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	other := made(aggregate.NewRepository(store, counters, nil))
	for range 3 {
		if _, err := other.Update(t.Context(), "a", add(100)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := refuses.Update(t.Context(), "a", seen(&on, refused)); !errors.Is(err, refused) || on != 300 {
		t.Errorf("refused on %d, %v; want 300", on, err)
	}
	if receipt, err := idle.Update(t.Context(), "a", seen(&on, nil)); err != nil || on != 300 || receipt.Version != 4 {
		t.Errorf("nothing to do on %d, %v, %v; want 300", on, receipt, err)
	}
	if _, err := writes.Update(t.Context(), "a", func(c *counter) ([]event, error) {
		on = c.Value
		return []event{added{1}}, nil
	}); err != nil || on != 300 {
		t.Errorf("wrote on %d, %v; want 300", on, err)
	}
}
