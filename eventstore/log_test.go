package eventstore_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tidemark-es/tidemark/eventstore"
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
