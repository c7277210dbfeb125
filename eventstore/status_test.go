package eventstore_test

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
)

// TestStatus: the status names the transaction that holds the tidemark back, and how long an event waits behind it.
func TestStatus(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	store, err := eventstore.New(pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := store.Status(t.Context()); err != nil || s != (eventstore.LogStatus{}) {
		t.Errorf("of an empty log: %+v, %v", s, err)
	}
	draft := eventstore.Draft{Type: "noted", Data: []byte(`{}`)}
	a, b := eventstore.StreamID{Category: "note", Key: "a"}, eventstore.StreamID{Category: "note", Key: "b"}
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	if _, err := store.WithTx(tx).Append(t.Context(), a, eventstore.Any, draft); err != nil {
		t.Fatal(err)
	}
	receipt, err := store.Append(t.Context(), b, eventstore.Any, draft)
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Status(t.Context())
	if err != nil || s.Tidemark != 0 || s.End != receipt.Position || s.HeldFor <= 0 || s.Holder == nil || s.Holder.PID != int32(tx.Conn().PgConn().PID()) || s.Holder.Age <= 0 {
		t.Errorf("while a transaction is open: %+v, %+v, %v; want it to be named", s, s.Holder, err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s, err = store.Status(t.Context()); err != nil || s.Tidemark != receipt.Position || s.End != receipt.Position || s.Holder != nil || s.HeldFor != 0 {
		t.Errorf("after it: %+v, %v", s, err)
	}
}

// TestCount: Count says how many events a filter selects, up to a limit, and when the first of them was recorded.
// Estimate asks the planner. EventsAt returns events by their positions.
func TestCount(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	store, err := eventstore.New(pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	stream := eventstore.StreamID{Category: "note", Key: "a"}
	var drafts []eventstore.Draft
	for n := range 10 {
		drafts = append(drafts, eventstore.Draft{Type: []string{"odd", "even"}[n%2], Data: []byte(`{}`)})
	}
	began := time.Now().Add(-time.Minute)
	if _, err := store.Append(t.Context(), stream, eventstore.Any, drafts...); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		after, through eventstore.Position
		filter         eventstore.Filter
		most, want     int64
	}{
		"all":       {0, 10, eventstore.Filter{}, math.MaxInt64, 10},
		"a range":   {2, 6, eventstore.Filter{}, math.MaxInt64, 4},
		"of a type": {2, 7, eventstore.Filter{Types: []string{"even"}}, math.MaxInt64, 2},
		"a limit":   {0, 10, eventstore.Filter{}, 3, 3},
		"none":      {10, 10, eventstore.Filter{}, math.MaxInt64, 0},
	} {
		n, first, err := store.Count(t.Context(), c.after, c.through, c.filter, c.most)
		if err != nil || n != c.want || first.IsZero() != (c.want == 0) || c.want > 0 && first.Before(began) {
			t.Errorf("%s: %d, %s, %v; want %d", name, n, first, err, c.want)
		}
	}
	// There is no event at position 11. It may exist and be hidden, for example on a server that is behind.
	if _, _, err := store.Count(t.Context(), 0, 11, eventstore.Filter{}, 5); !errors.Is(err, eventstore.ErrUnproven) {
		t.Errorf("count beyond the end: %v, want ErrUnproven", err)
	}
	if _, err := pool.Exec(t.Context(), `analyze tidemark.events`); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]pgx.QueryExecMode{"as usual": pgx.QueryExecModeCacheStatement, "with a pooler": pgx.QueryExecModeExec} {
		pool := pgtest.Connect(t, pool.Config().ConnString(), func(c *pgxpool.Config) { c.ConnConfig.DefaultQueryExecMode = mode })
		store, err := eventstore.New(pool, nil)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := store.Estimate(t.Context(), 0, 10, eventstore.Filter{Types: []string{"even"}}); err != nil || n < 2 || n > 8 {
			t.Errorf("%s: an estimate of %d, %v; want about 5", name, n, err)
		}
	}
	events, err := store.EventsAt(t.Context(), 7, 2, 99, 2)
	if err != nil || len(events) != 2 || events[0].Position != 2 || events[1].Position != 7 {
		t.Errorf("events at 7, 2, 99 and 2: %v, %v; want those at 2 and 7", events, err)
	}
}
