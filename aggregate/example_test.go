package aggregate_test

import (
	"context"
	"fmt"

	"github.com/tidemark-es/tidemark/aggregate"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/eventstore/eventstoretest"
	"github.com/tidemark-es/tidemark/snapshot"
)

// The repository takes a snapshot after every 100 events, and after each event of a chosen type. Services use
// snapshot.NewPostgres.
func ExampleNewRepository_snapshots() {
	ctx := context.Background()
	store, _ := snapshot.NewMemory(snapshot.Retention{})
	snapshots := made(snapshot.NewSnapshotter(store, &snapshot.Config{
		Policy: snapshot.AnyOf(snapshot.Every(100), snapshot.On("limited")),
	}))
	repo := made(aggregate.NewRepository(eventstoretest.NewMemory(), counters, &aggregate.Config{Snapshots: snapshots}))
	for _, decide := range []func(*counter) ([]event, error){limit(10), add(7)} {
		if _, err := repo.Update(ctx, "a", decide); err != nil {
			fmt.Println(err)
		}
	}
	snapshots.Close() // saves the snapshots in the queue
	fmt.Println(snapshots.Stats().Saved, "saved")
	// Output: 1 saved
}

// The example loads an aggregate as it was at a version, and at a position of the log. LoadAsOf does so for a time.
func ExampleRepository_LoadVersion() {
	ctx := context.Background()
	repo := sevenAndTwo(ctx)
	now, _ := repo.Load(ctx, "a")
	before, _ := repo.LoadVersion(ctx, "a", 2)
	same, _ := repo.LoadThrough(ctx, "a", before.Position)
	fmt.Println(now.State.Value, before.State.Value, same.State.Value)
	// Output: 9 7 7
}

// History gives each event with the state after it, for a console or a debugger.
func ExampleRepository_History() {
	ctx := context.Background()
	for step, err := range sevenAndTwo(ctx).History(ctx, "a", 0, 0) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(step.Event.Version, step.Event.Type, step.State.Value)
	}
	// Output:
	// 1 limited 0
	// 2 added 7
	// 3 added 9
}

// WarmUp takes snapshots of all counters, after a release that has changed their state.
func ExampleRepository_WarmUp() {
	ctx := context.Background()
	events := eventstoretest.NewMemory()
	for _, key := range []string{"a", "b", "c"} {
		if _, err := made(aggregate.NewRepository(events, counters, nil)).Update(ctx, key, limit(10)); err != nil {
			fmt.Println(err)
		}
	}
	store, _ := snapshot.NewMemory(snapshot.Retention{})
	snapshots := made(snapshot.NewSnapshotter(store, nil))
	defer snapshots.Close()
	repo := made(aggregate.NewRepository(events, counters.WithSchema(2), &aggregate.Config{Snapshots: snapshots}))
	done, err := repo.WarmUp(ctx, events, eventstore.StreamID{}, nil)
	fmt.Println(done.Saved, done.Failed, done.Deleted, err)
	// Output: 3 0 0 <nil>
}

// A state with unexported fields has an encoding of its own.
func ExampleDefinition_WithEncoding() {
	definition := counters.WithEncoding(
		func(c *counter) ([]byte, error) { return fmt.Appendf(nil, "%d of %d", c.Value, c.Limit), nil },
		func(data []byte) (*counter, error) {
			c := new(counter)
			_, err := fmt.Sscanf(string(data), "%d of %d", &c.Value, &c.Limit)
			return c, err
		}).WithSchema(2)
	data, _ := definition.EncodeState(definition.Fold(limited{10}, added{7}))
	fmt.Println(string(data))
	// Output: 7 of 10
}

func sevenAndTwo(ctx context.Context) *repository {
	repo := made(aggregate.NewRepository(eventstoretest.NewMemory(), counters, nil))
	for _, decide := range []func(*counter) ([]event, error){limit(10), add(7), add(2)} {
		if _, err := repo.Update(ctx, "a", decide); err != nil {
			fmt.Println(err)
		}
	}
	return repo
}
