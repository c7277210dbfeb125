package eventstore_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
)

// TestRareMatches: a reader whose filter selects very few events advances over the others in steps, and finds all the
// events that the filter selects.
func TestRareMatches(t *testing.T) {
	t.Parallel()
	store, _ := open(t)
	rare := draft(0)
	rare.Type = "rare"
	noise := slices.Repeat([]eventstore.Draft{draft(0)}, 4000)
	var want []eventstore.Position
	for i := range 16 { // more events than one statement looks at
		if i%15 == 0 {
			receipt, err := store.Append(t.Context(), stream("rare"), eventstore.Any, rare)
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, receipt.Position)
		}
		if _, err := store.Append(t.Context(), stream(fmt.Sprint(i)), eventstore.NoStream, noise...); err != nil {
			t.Fatal(err)
		}
	}
	filter := eventstore.Filter{Types: []string{"rare"}}
	var forwards, backwards []eventstore.Position
	for event, err := range store.ReadAll(t.Context(), 0, filter) {
		if err != nil {
			t.Fatal(err)
		}
		forwards = append(forwards, event.Position)
	}
	for event, err := range store.ReadAllBackwards(t.Context(), 0, filter) {
		if err != nil {
			t.Fatal(err)
		}
		backwards = append(backwards, event.Position)
	}
	slices.Reverse(backwards)
	if !slices.Equal(forwards, want) || !slices.Equal(backwards, want) {
		t.Errorf("forwards %v, backwards %v, want %v", forwards, backwards, want)
	}
	end, err := store.Tidemark(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	steps := 0
	for after := eventstore.Position(0); after < end; steps++ {
		page, err := store.Next(t.Context(), eventstore.After(after), eventstore.Filter{Types: []string{"none"}}, 100)
		if err != nil || page.Through <= after {
			t.Fatalf("after %d: %+v, %v", after, page, err)
		}
		after = page.Through
	}
	if steps != 2 {
		t.Errorf("a reader that finds nothing took %d steps through 64,002 events, want 2", steps)
	}
}

// TestCorrelationIndex: Correlated reads the index in its order, and events without a correlation id are not in the
// index.
func TestCorrelationIndex(t *testing.T) {
	t.Parallel()
	store, pool := open(t)
	if _, err := store.Append(t.Context(), stream("a"), eventstore.NoStream, slices.Repeat([]eventstore.Draft{draft(1)}, 4000)...); err != nil {
		t.Fatal(err)
	}
	ctx := eventstore.WithMetadata(t.Context(), eventstore.Metadata{CorrelationID: "one"})
	if _, err := store.Append(ctx, stream("b"), eventstore.NoStream, draft(1)); err != nil {
		t.Fatal(err)
	}
	mustExec(t, pool, `analyze tidemark.events`)
	var entries float64
	if err := pool.QueryRow(t.Context(), `select reltuples from pg_class where oid = 'tidemark.events_correlation'::regclass`).Scan(&entries); err != nil {
		t.Fatal(err)
	}
	if entries > 100 { // an estimate, which may be a little too high
		t.Errorf("the index has about %.0f entries, want 1", entries)
	}
	rows, err := pool.Query(t.Context(), `explain (costs off) `+eventstore.CorrelatedSQL, "one", 0, 1_000_000, 10)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var plan strings.Builder
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			t.Fatal(err)
		}
		plan.WriteString(line + "\n")
	}
	if !strings.Contains(plan.String(), "events_correlation") || strings.Contains(plan.String(), "Sort") {
		t.Errorf("the plan does not read the index in order:\n%s", &plan)
	}
}

// statements counts the statements that read pages of the log.
type statements struct{ pages atomic.Int64 }

func (s *statements) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if strings.Contains(data.SQL, "order by position\n limit $4") {
		s.pages.Add(1)
	}
	return ctx
}

func (*statements) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// TestPagesBySize: pages of small events have more of them, unless Config.PageSize says how many. A page of large events
// ends early, and reading goes on behind its last event.
func TestPagesBySize(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	count := func(config *eventstore.Config) (events int, pages int64, store *eventstore.Store) {
		t.Helper()
		var s statements
		pool := pgtest.Connect(t, url, func(c *pgxpool.Config) { c.ConnConfig.Tracer = &s })
		store, err := eventstore.New(pool, config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(store.Close)
		for event, err := range store.ReadAll(t.Context(), 0, eventstore.Filter{}) {
			if err != nil {
				t.Fatal(err)
			}
			if events++; event.Version != eventstore.Version(events) {
				t.Fatalf("event %d has version %d", events, event.Version)
			}
		}
		return events, s.pages.Load(), store
	}
	writer, err := eventstore.New(pgtest.Connect(t, url, nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(writer.Close)
	drafts := make([]eventstore.Draft, 4000)
	for n := range drafts {
		drafts[n] = draft(n)
	}
	if _, err := writer.Append(t.Context(), stream("a"), eventstore.NoStream, drafts...); err != nil {
		t.Fatal(err)
	}
	if n, pages, _ := count(nil); n != 4000 || pages != 2 {
		t.Errorf("%d small events in %d pages, want 4000 in one of 100 and one of 3900", n, pages)
	}
	if n, pages, _ := count(&eventstore.Config{PageSize: 1000}); n != 4000 || pages != 4 {
		t.Errorf("%d small events in %d pages, want 4000 in 4", n, pages)
	}

	large := draft(1)
	large.Data = json.RawMessage(`"` + strings.Repeat("x", 1<<20-2) + `"`)
	for range 5 {
		if _, err := writer.Append(t.Context(), stream("a"), eventstore.Any, slices.Repeat([]eventstore.Draft{large}, 8)...); err != nil {
			t.Fatal(err)
		}
	}
	n, _, store := count(nil)
	if n != 4040 {
		t.Errorf("%d events, want 4040", n)
	}
	page, err := store.Next(t.Context(), eventstore.After(4000), eventstore.Filter{}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if len(page.Events) != 17 || page.Through != page.Events[16].Position || page.ID != page.Events[16].ID || !page.More {
		t.Errorf("a page of large events has %d of them, reaches to %d, and there are more: %t; want 17", len(page.Events), page.Through, page.More)
	}
}
