package aggregate_test

import (
	"testing"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/tidemark-es/tidemark/aggregate"
	"github.com/tidemark-es/tidemark/aggregate/aggregatetest"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/snapshot"
)

var eventsOfCounter = rapid.OneOf(
	rapid.Map(rapid.IntRange(0, 1000), func(n int) event { return limited{n} }),
	rapid.Map(rapid.IntRange(-9, 9), func(n int) event { return added{n} }),
)

// TestSnapshotsChangeNothing does random things to a counter: updates through four repositories with snapshots, appends
// that bypass the repositories, and changes of the snapshots. Two of the repositories have caches. Two load in one round
// trip where the store can. Loading always gives the state that follows from the events.
func TestSnapshotsChangeNothing(t *testing.T) {
	eachKept(t, snapshot.Retention{Latest: 2}, func(t *testing.T, k kept) {
		var repos []*repository
		for _, config := range []struct {
			store  aggregate.Store
			config snapshot.Config
			cache  int
		}{
			{k.events.Store, snapshot.Config{Sync: true, Policy: snapshot.Every(2)}, 1},
			{k.events, snapshot.Config{Policy: snapshot.AnyOf(snapshot.Every(3), snapshot.On("limited"))}, 2},
			{k.events, snapshot.Config{Sync: true, Policy: snapshot.Every(1)}, 0},
			{k.events.Store, snapshot.Config{Policy: snapshot.Every(2)}, 0},
		} {
			repo, _, _ := k.over(t, config.store, config.config, config.cache)
			repos = append(repos, repo)
		}
		rapid.Check(t, func(rt *rapid.T) {
			prefix := uuid.NewString()
			key := func() string { return prefix + rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "key") }
			repo := func() *repository { return rapid.SampledFrom(repos).Draw(rt, "repository") }
			rt.Repeat(map[string]func(*rapid.T){
				"update": func(rt *rapid.T) {
					events := rapid.SliceOfN(eventsOfCounter, 0, 4).Draw(rt, "events")
					if _, err := repo().Update(t.Context(), key(), func(*counter) ([]event, error) { return events, nil }); err != nil {
						rt.Fatal(err)
					}
				},
				"refuse": func(rt *rapid.T) {
					key := key()
					var seen counter
					_, err := repo().Update(t.Context(), key, func(c *counter) ([]event, error) { seen = *c; return nil, errLimit })
					if err != errLimit {
						rt.Fatal(err)
					}
					plain, err := made(aggregate.NewRepository(k.events.Store, counters, nil)).Load(t.Context(), key)
					if err != nil || seen != *plain.State {
						rt.Fatalf("refused on %+v, want %+v, %v", seen, plain.State, err)
					}
				},
				"append": func(rt *rapid.T) {
					draft, err := counters.Codec().Encode(eventsOfCounter.Draw(rt, "event"))
					if err != nil {
						rt.Fatal(err)
					}
					if _, err := k.events.Commit(t.Context(), eventstore.Change{Stream: counters.Stream(key()), Expected: eventstore.Any, Events: []eventstore.Draft{draft}}); err != nil {
						rt.Fatal(err)
					}
				},
				"spoil": func(rt *rapid.T) {
					found, ok, err := k.snapshots.Load(t.Context(), counters.Stream(key()), counters.SnapshotKind(), 1<<40)
					if err != nil || !ok {
						return
					}
					if err := k.snapshots.Delete(t.Context(), found.Stream, found.Version); err != nil {
						rt.Fatal(err)
					}
					switch rapid.IntRange(0, 4).Draw(rt, "how") {
					case 0:
						found.Data = []byte("?")
					case 1:
						found.EventID = uuid.New()
					case 2:
						found.Version += 5
					case 3:
						found.Kind.Type = "order"
					case 4:
						found.Kind.Schema = 2
					}
					if err := k.snapshots.Save(t.Context(), found); err != nil {
						rt.Fatal(err)
					}
				},
				"": func(rt *rapid.T) {
					key := key()
					loaded := checkLoad(t, k, repo(), key)
					version := eventstore.Version(rapid.IntRange(0, int(loaded.Version)).Draw(rt, "version"))
					before, err := repo().LoadVersion(t.Context(), key, version)
					if err != nil || before.Version != version {
						rt.Fatalf("at version %d: %+v, %v", version, before, err)
					}
					last := *before.State
					for step, err := range repo().History(t.Context(), key, version, 0) {
						if err != nil {
							rt.Fatal(err)
						}
						last = *step.State
					}
					if last != *loaded.State {
						rt.Fatalf("history after %d ends at %+v, want %+v", version, last, *loaded.State)
					}
					if t.Failed() {
						rt.Fatal("see above")
					}
				},
			})
		})
	})
}

func TestCheckSnapshot(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		aggregatetest.CheckSnapshot(rt, counters, rapid.SliceOfN(eventsOfCounter, 0, 30).Draw(rt, "history"))
	})
}

// TestCheckSnapshotFails: CheckSnapshot fails if a snapshot loses a part of the state.
func TestCheckSnapshotFails(t *testing.T) {
	t.Parallel()
	c := counters.Codec()
	for name, check := range map[string]func(testing.TB){
		"an unexported field":      checked[hidden]{aggregate.Define[hidden]("a", c)}.check,
		"a field that is left out": checked[skipped]{aggregate.Define[skipped]("a", c)}.check,
		"an own encoding that forgets": checked[counter]{counters.WithEncoding(
			func(c *counter) ([]byte, error) { return []byte{byte(c.Value)}, nil },
			func(data []byte) (*counter, error) { return &counter{Value: int(data[0])}, nil })}.check,
		"an own encoding that fails": checked[counter]{counters.WithEncoding(
			func(*counter) ([]byte, error) { return nil, errBroken },
			func([]byte) (*counter, error) { return new(counter), nil })}.check,
		"an own encoding that does not decode": checked[counter]{counters.WithEncoding(
			func(*counter) ([]byte, error) { return nil, nil },
			func([]byte) (*counter, error) { return nil, errBroken })}.check,
	} {
		if !failsIn(t, check) {
			t.Errorf("%s: nothing is found", name)
		}
	}
}

type checked[S any] struct {
	definition *aggregate.Definition[S, event]
}

func (c checked[S]) check(t testing.TB) {
	aggregatetest.CheckSnapshot(t, c.definition, []event{limited{5}, added{1}, limited{7}, added{2}})
}
