package eventstoretest

import (
	"context"
	"fmt"
	"iter"
	"testing"
	"time"

	"github.com/tidemark-es/tidemark/eventstore"
)

// Store has the methods that the suite tests: those of [eventstore.Store] that need no Postgres.
type Store interface {
	Append(context.Context, eventstore.StreamID, eventstore.Version, ...eventstore.Draft) (eventstore.Receipt, error)
	Commit(context.Context, ...eventstore.Change) ([]eventstore.Receipt, error)
	Receipts(context.Context) ([]eventstore.Receipt, bool, error)
	Read(context.Context, eventstore.StreamID, eventstore.ReadOptions) iter.Seq2[eventstore.Raw, error]
	ReadAll(context.Context, eventstore.Position, eventstore.Filter) iter.Seq2[eventstore.Raw, error]
	ReadAllBackwards(context.Context, eventstore.Position, eventstore.Filter) iter.Seq2[eventstore.Raw, error]
	Correlated(context.Context, string) iter.Seq2[eventstore.Raw, error]
	Stat(context.Context, eventstore.StreamID) (eventstore.StreamInfo, error)
	Streams(ctx context.Context, prefix string, after eventstore.StreamID, limit int) ([]eventstore.StreamInfo, error)
	RecentStreams(ctx context.Context, prefix string, before eventstore.Position, limit int) ([]eventstore.StreamInfo, error)
	PurgeKeys(ctx context.Context, age time.Duration) (int64, error)
	Follow(context.Context, eventstore.Position, eventstore.Filter) iter.Seq2[eventstore.Raw, error]
	Next(context.Context, eventstore.Mark, eventstore.Filter, int) (eventstore.Page, error)
	Tidemark(context.Context) (eventstore.Position, error)
}

// Run tests that a store keeps the contract of package eventstore. newStore returns a fresh,
// empty store for one test and frees it with t.Cleanup.
func Run(t *testing.T, newStore func(t *testing.T) Store) {
	if newStore == nil {
		t.Fatal("eventstoretest.Run: newStore is nil: pass a function that returns an empty store")
	}
	for _, test := range []struct {
		name string
		run  func(*testing.T, Store)
	}{
		{"RoundTrip", testRoundTrip},
		{"Metadata", testMetadata},
		{"ExpectedVersion", testExpectedVersion},
		{"CommitIsAtomic", testCommitIsAtomic},
		{"CommitOrder", testCommitOrder},
		{"InvalidArguments", testInvalidArguments},
		{"LargestEvent", testLargestEvent},
		{"ReadOptions", testReadOptions},
		{"ReadAll", testReadAll},
		{"Backwards", testBackwards},
		{"AsOf", testAsOf},
		{"Cause", testCause},
		{"Streams", testStreams},
		{"PurgeKeys", testPurgeKeys},
		{"Follow", testFollow},
		{"Next", testNext},
		{"Key", testKey},
		{"RepeatByID", testRepeatByID},
		{"KeyConcurrent", testKeyConcurrent},
		{"KeySpent", testKeySpent},
		{"KeyBranches", testKeyBranches},
		{"KeyGoroutines", testKeyGoroutines},
		{"OneWinner", testOneWinner},
		{"AnyQueues", testAnyQueues},
		{"CrossingCommits", testCrossingCommits},
		{"FollowersSeeAll", testFollowersSeeAll},
		{"Model", testModel},
		{"Linearizable", testLinearizable},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, newStore(t))
		})
	}
}

func stream(key string) eventstore.StreamID {
	return eventstore.StreamID{Category: "thing", Key: key}
}

func draft(n int) eventstore.Draft {
	return eventstore.Draft{Type: "thing.happened", Data: fmt.Appendf(nil, `{"n":%d}`, n)}
}

func drafts(n int) []eventstore.Draft {
	all := make([]eventstore.Draft, n)
	for i := range all {
		all[i] = draft(i + 1)
	}
	return all
}

func mustAppend(t *testing.T, s Store, id eventstore.StreamID, expected eventstore.Version, events ...eventstore.Draft) eventstore.Receipt {
	t.Helper()
	receipt, err := s.Append(t.Context(), id, expected, events...)
	if err != nil {
		t.Fatalf("append to %s: %v", id, err)
	}
	return receipt
}

func collect(t *testing.T, events iter.Seq2[eventstore.Raw, error]) []eventstore.Raw {
	t.Helper()
	var all []eventstore.Raw
	for event, err := range events {
		if err != nil {
			t.Fatalf("read: %v", err)
		}
		all = append(all, event)
	}
	return all
}
