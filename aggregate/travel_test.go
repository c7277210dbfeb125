package aggregate_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/tidemark-es/tidemark/aggregate"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/snapshot"
)

// past returns a repository and all events of a counter with n events and a snapshot after every five.
func past(t *testing.T, k kept, n eventstore.Version) (*repository, []eventstore.Raw) {
	t.Helper()
	repo, _, _ := k.repository(t, snapshot.Config{Sync: true, Policy: snapshot.Every(5)}, 0)
	grow(t, repo, "other", 1) // so that no position is 0
	for version := range n {
		grow(t, repo, "other", version+2)
		if _, err := repo.Update(t.Context(), "a", limitOrAdd(version)); err != nil {
			t.Fatal(err)
		}
	}
	var events []eventstore.Raw
	for event, err := range k.events.Read(t.Context(), counters.Stream("a"), eventstore.ReadOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, event)
	}
	return repo, events
}

func limitOrAdd(version eventstore.Version) func(*counter) ([]event, error) {
	if version == 0 {
		return limit(1000)
	}
	return add(int(version))
}

// after returns the state of the counter that past makes, after its first n events.
func after(n eventstore.Version) counter {
	if n == 0 {
		return counter{}
	}
	return counter{Value: int(n * (n - 1) / 2), Limit: 1000}
}

func checkPast(t *testing.T, what string, loaded *aggregate.Loaded[counter, event], err error, want eventstore.Version) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	if loaded.Version != want || *loaded.State != after(want) {
		t.Errorf("%s: %+v at version %d, want %+v at %d", what, *loaded.State, loaded.Version, after(want), want)
	}
	if loaded.Position == 0 != (want == 0) {
		t.Errorf("%s: position %d", what, loaded.Position)
	}
}

// TestTimeTravel loads a counter as it was after each of its events.
func TestTimeTravel(t *testing.T) {
	eachKept(t, snapshot.Retention{Latest: 100}, func(t *testing.T, k kept) {
		const n = 22
		repo, events := past(t, k, n)
		ctx := t.Context()
		loaded, err := repo.LoadVersion(ctx, "a", 0)
		checkPast(t, "at version 0", loaded, err, 0)
		loaded, err = repo.LoadVersion(ctx, "a", n+10)
		checkPast(t, "at a version it has not reached", loaded, err, n)
		loaded, err = repo.LoadAsOf(ctx, "a", events[0].RecordedAt.Add(-time.Microsecond))
		checkPast(t, "before its first event", loaded, err, 0)
		loaded, err = repo.LoadAsOf(ctx, "a", time.Now().Add(time.Hour))
		checkPast(t, "in the future", loaded, err, n)
		loaded, err = repo.LoadThrough(ctx, "a", 0)
		checkPast(t, "at position 0", loaded, err, 0)
		loaded, err = repo.LoadThrough(ctx, "a", events[0].Position-1)
		checkPast(t, "before its first position", loaded, err, 0)
		loaded, err = repo.LoadThrough(ctx, "a", math.MaxInt64)
		checkPast(t, "at the last position", loaded, err, n)
		if _, err := repo.LoadThroughEvent(ctx, "a", uuid.New()); !errors.Is(err, eventstore.ErrNotFound) {
			t.Errorf("through an event of another stream: %v, want ErrNotFound", err)
		}
		loaded, err = repo.LoadVersion(ctx, "none", 7)
		checkPast(t, "of nothing", loaded, err, 0)
		for i, event := range events {
			version := eventstore.Version(i + 1)
			k.events.since()
			loaded, err := repo.LoadVersion(ctx, "a", version)
			checkPast(t, fmt.Sprint("at version ", version), loaded, err, version)
			if read, _ := k.events.since(); read > 6 {
				t.Errorf("at version %d: %d events read, the nearest snapshot is not used", version, read)
			}
			for _, position := range []eventstore.Position{event.Position, event.Position + 1} { // the next position is of another stream
				loaded, err = repo.LoadThrough(ctx, "a", position)
				checkPast(t, fmt.Sprint("at position ", position), loaded, err, version)
			}
			loaded, err = repo.LoadThroughEvent(ctx, "a", event.ID)
			checkPast(t, fmt.Sprint("through the event of version ", version), loaded, err, version)
			loaded, err = repo.LoadAsOf(ctx, "a", event.RecordedAt)
			at := version // several events may be recorded in one microsecond
			for int(at) < len(events) && events[at].RecordedAt.Equal(event.RecordedAt) {
				at++
			}
			checkPast(t, fmt.Sprint("at ", event.RecordedAt), loaded, err, at)
		}
		change, err := loaded.Change([]event{added{1}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.events.Commit(ctx, change); err != nil {
			t.Fatal(err)
		}
		old, err := repo.LoadVersion(ctx, "a", 3)
		if err != nil {
			t.Fatal(err)
		}
		if change, err = old.Change([]event{added{1}}, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := k.events.Commit(ctx, change); !errors.Is(err, eventstore.ErrConflict) {
			t.Errorf("a decision on the past: %v, want a conflict", err)
		}
	})
}

// TestTimeTravelRefuses: arguments out of bounds are an ErrInvalid.
func TestTimeTravelRefuses(t *testing.T) {
	eachKept(t, snapshot.Retention{}, func(t *testing.T, k kept) {
		repo, _ := past(t, k, 3)
		ctx := t.Context()
		for name, load := range map[string]func() (*aggregate.Loaded[counter, event], error){
			"version":   func() (*aggregate.Loaded[counter, event], error) { return repo.LoadVersion(ctx, "a", -1) },
			"position":  func() (*aggregate.Loaded[counter, event], error) { return repo.LoadThrough(ctx, "a", -1) },
			"zero time": func() (*aggregate.Loaded[counter, event], error) { return repo.LoadAsOf(ctx, "a", time.Time{}) },
			"year": func() (*aggregate.Loaded[counter, event], error) {
				return repo.LoadAsOf(ctx, "a", time.Date(12345, 1, 1, 0, 0, 0, 0, time.UTC))
			},
			"key":          func() (*aggregate.Loaded[counter, event], error) { return repo.LoadVersion(ctx, "", 1) },
			"key at 0":     func() (*aggregate.Loaded[counter, event], error) { return repo.LoadVersion(ctx, "", 0) },
			"key, time":    func() (*aggregate.Loaded[counter, event], error) { return repo.LoadAsOf(ctx, "", time.Now()) },
			"history":      func() (*aggregate.Loaded[counter, event], error) { return nil, firstOf(repo, "a", -1, 0) },
			"history to":   func() (*aggregate.Loaded[counter, event], error) { return nil, firstOf(repo, "a", 0, -1) },
			"history, key": func() (*aggregate.Loaded[counter, event], error) { return nil, firstOf(repo, "", 0, 0) },
		} {
			if _, err := load(); !errors.Is(err, eventstore.ErrInvalid) {
				t.Errorf("%s: %v, want ErrInvalid", name, err)
			}
		}
	})
}

func firstOf(repo *repository, key string, after, to eventstore.Version) error {
	for _, err := range repo.History(ctxForever, key, after, to) {
		return err
	}
	return nil
}

// TestClockJumps: an aggregate at a time has the events up to the last one that was recorded by then, although earlier
// events bear later times.
func TestClockJumps(t *testing.T) {
	eachKept(t, snapshot.Retention{Latest: 100}, func(t *testing.T, k kept) {
		if k.pool == nil {
			t.Skip("the clock of the memory store cannot be put back")
		}
		const n = 12
		repo, _ := past(t, k, n)
		noon := time.Date(2026, 3, 29, 12, 0, 0, 0, time.UTC)
		// The clock jumps an hour forward after version 3, and two hours back after version 8.
		at := func(version eventstore.Version) time.Time {
			minute := noon.Add(time.Duration(version) * time.Minute)
			switch {
			case version > 8:
				return minute.Add(-time.Hour)
			case version > 3:
				return minute.Add(time.Hour)
			}
			return minute
		}
		tx, err := k.pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), `set local session_replication_role = replica`); err != nil { // else a trigger refuses to change events
			t.Fatal(err)
		}
		for version := range eventstore.Version(n) {
			if _, err := tx.Exec(t.Context(), `update tidemark.events set recorded_at = $1 where stream = 'counter-a' and version = $2`, at(version+1), int64(version+1)); err != nil {
				t.Fatal(err)
			}
		}
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, asked := range []time.Time{noon, at(1), at(3), at(3).Add(time.Second), at(4), at(8), at(9), at(12), at(9).Add(-time.Second), noon.Add(-time.Hour)} {
			var want eventstore.Version
			for version := range eventstore.Version(n + 1) {
				if version > 0 && !at(version).After(asked) {
					want = version
				}
			}
			loaded, err := repo.LoadAsOf(t.Context(), "a", asked)
			checkPast(t, asked.String(), loaded, err, want)
		}
	})
}

// TestHistory: each step has its event, and the state after it.
func TestHistory(t *testing.T) {
	eachKept(t, snapshot.Retention{Latest: 100}, func(t *testing.T, k kept) {
		const n = 17
		repo, events := past(t, k, n)
		for _, bounds := range [][2]eventstore.Version{{0, 0}, {0, 5}, {5, 0}, {6, 9}, {16, 17}, {17, 0}, {9, 6}, {40, 50}} {
			from, to := bounds[0], bounds[1]
			want := []eventstore.Version{}
			for _, event := range events {
				if event.Version > from && (to == 0 || event.Version <= to) {
					want = append(want, event.Version)
				}
			}
			got := []eventstore.Version{}
			k.events.since()
			for step, err := range repo.History(t.Context(), "a", from, to) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, step.Event.Version)
				if *step.State != after(step.Event.Version) || len(step.Decoded) != 1 || step.Decoded[0].ID != step.Event.ID {
					t.Errorf("step of version %d: %+v, %+v", step.Event.Version, step.State, step.Decoded)
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("history after %d to %d: %v, want %v", from, to, got, want)
			}
			if read, _ := k.events.since(); read > len(want)+6 {
				t.Errorf("history after %d to %d: %d events read", from, to, read)
			}
		}
		for range repo.History(t.Context(), "a", 0, 0) {
			break
		}
	})
}
