package eventstore_test

import (
	"errors"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
	"github.com/tidemark-es/tidemark/migrations"
)

// TestIdentity: each schema of each database holds a store of its own.
func TestIdentity(t *testing.T) {
	t.Parallel()
	store, pool := open(t)
	if err := migrations.Up(t.Context(), pool, &migrations.Config{Schema: "second"}); err != nil {
		t.Fatal(err)
	}
	second, err := eventstore.New(pool, &eventstore.Config{Schema: "second"})
	if err != nil {
		t.Fatal(err)
	}
	other, _ := open(t)
	seen := make(map[uuid.UUID]bool)
	for _, s := range []*eventstore.Store{store, second, other, store} {
		id, err := s.Identity(t.Context())
		if err != nil || id == uuid.Nil {
			t.Fatalf("%v, %v", id, err)
		}
		seen[id] = true
	}
	if len(seen) != 3 {
		t.Errorf("%d ids for 3 stores", len(seen))
	}
	if _, err := pool.Exec(t.Context(), `insert into tidemark.store default values`); err == nil {
		t.Error("the table takes a second row")
	}
	empty, err := eventstore.New(connect(t, pgtest.EmptyURL(t)), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := empty.Identity(t.Context()); !errors.Is(err, eventstore.ErrNotMigrated) {
		t.Errorf("without tables: %v", err)
	}
}

// TestIdentityRole: a service's role can read the identity of its store, and cannot change it.
func TestIdentityRole(t *testing.T) {
	t.Parallel()
	owner, app, _ := roles(t)
	var ids []uuid.UUID
	for _, pool := range []*pgxpool.Pool{owner, app} {
		store, err := eventstore.New(pool, nil)
		if err != nil {
			t.Fatal(err)
		}
		id, err := store.Identity(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	if ids[0] != ids[1] {
		t.Errorf("ids %v of one store", ids)
	}
	if _, err := app.Exec(t.Context(), `update tidemark.store set id = gen_random_uuid()`); err == nil {
		t.Error("a service can give the store another id")
	}
}
