package projection_test

import (
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
	"github.com/tidemark-es/tidemark/projection"
)

// connected returns a fixture over the database at url. change adjusts the pool's configuration.
func connected(t *testing.T, url string, change func(*pgxpool.Config)) *fixture {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 8
	change(config)
	f := &fixture{T: t}
	if f.pool, err = pgxpool.NewWithConfig(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.pool.Close)
	if f.store, err = eventstore.New(f.pool, &eventstore.Config{PollOnly: true}); err != nil {
		t.Fatal(err)
	}
	return f
}

// TestExecMode: a runner and its operator work with the settings that a pooler in transaction mode needs.
func TestExecMode(t *testing.T) {
	t.Parallel()
	f := connected(t, pgtest.URL(t), func(c *pgxpool.Config) {
		c.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	})
	f.exec(`create table model (name text, position bigint, n int, written bigserial)`)
	config := *quiet
	config.PollOnly = true
	var floor atomic.Int64
	r, _ := f.start(&config, f.store, picky(f, &floor)...)
	f.put("many", make([]int, 250)...)
	for n := range 250 { // so many rows that they are copied in
		f.put(fmt.Sprint("key", n), n)
	}
	f.wait(r, f.put("a", 1, -1, 2, -2, 3, -3, 4))
	for _, k := range kinds {
		heads, err := r.Operator().DeadLetters(t.Context(), projection.Ref{Name: k.name, Version: projection.Live}, "", 0, 10)
		if err != nil || len(heads) != 1 || heads[0].Waiting != 5 {
			t.Fatalf("%s: dead letters %+v, %v", k.name, heads, err)
		}
		if groups, err := r.Operator().DeadLetterGroups(t.Context(), projection.Ref{Name: k.name, Version: projection.Live}); err != nil || len(groups) != 1 {
			t.Errorf("%s: groups %+v, %v", k.name, groups, err)
		}
		failed := heads[0].Position
		if n, err := r.Operator().Retry(t.Context(), projection.Ref{Name: k.name, Version: projection.Live}); n != 0 || err == nil || !strings.Contains(err.Error(), "too low") {
			t.Errorf("%s: retry: %d, %v", k.name, n, err)
		}
		n, err := r.Operator().Edit(t.Context(), projection.Ref{Name: k.name, Version: projection.Live}, "counter-a", failed, json.RawMessage(`{"N":7}`))
		if n != 2 || err == nil || !strings.Contains(err.Error(), "number -2 is too low") {
			t.Errorf("%s: edit: %d, %v", k.name, n, err)
		}
		n, err = r.Operator().Skip(t.Context(), projection.Ref{Name: k.name, Version: projection.Live}, "counter-a", failed+2, "a test")
		if n != 1 || err == nil || !strings.Contains(err.Error(), "number -3 is too low") {
			t.Errorf("%s: skip: %d, %v", k.name, n, err)
		}
		floor.Store(-10)
		f.retry(r, 2, k.name)
		floor.Store(0)
		s := f.statusOf(r, k.name)
		f.equal(k.name+": parked", 0, s.Parked)
		f.equal(k.name+": handled", int64(250+250+6), s.Handled)
	}
	if err := r.Operator().RebuildKey(t.Context(), projection.Ref{Name: "table", Version: projection.Live}, "counter-key1"); err != nil {
		t.Error(err)
	}
	if err := r.Operator().Pause(t.Context(), projection.Ref{Name: "handler", Version: projection.AllVersions}, "a test"); err != nil {
		t.Error(err)
	}
	f.exec(`delete from model where name = 'handler'`)
	if err := r.Operator().Reset(t.Context(), projection.Ref{Name: "handler", Version: projection.Live}, 0); err != nil {
		t.Error(err)
	}
	if err := r.Operator().Resume(t.Context(), projection.Ref{Name: "handler", Version: projection.AllVersions}); err != nil {
		t.Error(err)
	}
	f.wait(r, f.put("b", 1))
	if err := r.Health(t.Context()); err != nil {
		t.Error(err)
	}
	if entries, err := r.Operator().Audit(t.Context(), "handler", 100); err != nil || len(entries) == 0 {
		t.Errorf("audit %+v, %v", entries, err)
	}
	f.equal("dead letters after Reset", []string{"counter-a 502: 1 tries, 5 wait, number -1 is too low"},
		f.letters(r, "handler", "", 0, 10))
}

// TestExecModeSwitch: with the same settings a new version becomes live, and then the old version again.
func TestExecModeSwitch(t *testing.T) {
	t.Parallel()
	f := connected(t, pgtest.URL(t), func(c *pgxpool.Config) {
		c.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	})
	config := *quiet
	config.PollOnly = true
	table := func(version int) *projection.Projection {
		return newPositions(f, "table", projection.Options{Version: version}, nothing)
	}
	r, stop := f.start(&config, f.store, table(1))
	f.wait(r, f.put("a", 1, 2, 3))
	stop()
	r, _ = f.start(&config, f.store, table(1), table(2))
	f.untilLive(r, 2)
	f.wait(r, f.put("a", 4))
	f.equal("table", map[string]string{"counter-a": "1 2 3 4 "}, f.streams(`select stream, numbers from "table"`))
	if err := r.Operator().Switch(t.Context(), projection.Ref{Name: "table", Version: 1}); err != nil {
		t.Fatal(err)
	}
	f.untilLive(r, 1)
	if err := r.Operator().Drop(t.Context(), projection.Ref{Name: "table", Version: 2}); err != nil {
		t.Error(err)
	}
	f.equal("table", map[string]string{"counter-a": "1 2 3 4 "}, f.streams(`select stream, numbers from "table"`))
}

// untilLive waits until a version of the table is the live one.
func (f *fixture) untilLive(r *projection.Runner, version int) {
	f.Helper()
	f.until(fmt.Sprintf("version %d is live", version), func() bool {
		s, err := r.Status(f.Context())
		if err != nil {
			f.Fatal(err)
		}
		return slices.ContainsFunc(s.Projections, func(p projection.ProjectionStatus) bool {
			return p.Version == version && p.Phase == projection.PhaseLive
		})
	})
}
