package eventstore_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
)

// TestCommitSize: a commit that is too large is refused before anything is encoded or sent, whatever makes it too
// large. A transaction of the caller can still be used after it.
func TestCommitSize(t *testing.T) {
	t.Parallel()
	store, pool := open(t)
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context())
	ctx := eventstore.WithMetadata(t.Context(), eventstore.Metadata{Actor: strings.Repeat("a", 1<<20-100)})
	megabyte := []byte(`"` + strings.Repeat("x", 1<<20-2) + `"`)
	repeat := func(d eventstore.Draft, n int) []eventstore.Change {
		c := eventstore.Change{Stream: stream("large"), Expected: eventstore.Any}
		for range n {
			c.Events = append(c.Events, d)
		}
		return []eventstore.Change{c}
	}
	small := eventstore.Draft{Type: "t", Data: []byte("1")}
	headers := small
	headers.Metadata.Headers = map[string]string{"h": strings.Repeat("<", 150_000)} // six bytes each in JSON
	for name, all := range map[string][]eventstore.Change{
		"bytes":             repeat(eventstore.Draft{Type: "t", Data: megabyte}, 65),
		"a gigabyte":        repeat(eventstore.Draft{Type: "t", Data: megabyte}, 1100),
		"events":            repeat(small, eventstore.MaxCommitEvents+1),
		"headers":           repeat(headers, 80),
		"headers of one":    repeat(eventstore.Draft{Type: "t", Data: []byte("1"), Metadata: eventstore.Metadata{Actor: strings.Repeat("a", 2<<20)}}, 1),
		"what ctx holds":    repeat(small, 65),
		"streams":           changes("many", eventstore.MaxCommitStreams+1),
		"types":             repeat(eventstore.Draft{Type: strings.Repeat("t", 300), Data: []byte("1")}, 1),
		"a key of its name": changes("many", 1),
	} {
		c := t.Context()
		switch name {
		case "what ctx holds":
			c = ctx
		case "a key of its name":
			c = eventstore.WithKey(c, strings.Repeat("k", 1<<20), nil)
		}
		for where, s := range map[string]*eventstore.Store{"store": store, "transaction": store.WithTx(tx)} {
			_, err := s.Commit(c, all...)
			if !errors.Is(err, eventstore.ErrInvalid) || len(err.Error()) > 2000 {
				t.Errorf("%s, %s: %.2000v, want ErrInvalid", name, where, err)
			}
		}
	}
	if _, err := store.WithTx(tx).Append(t.Context(), stream("small"), eventstore.NoStream, draft(1)); err != nil {
		t.Errorf("the transaction is not as it was: %v", err)
	}
	for name, config := range map[string]eventstore.Config{
		"events that no commit may hold": {MaxEventBytes: 1 << 30},
		"pages of a million":             {PageSize: 1_000_000},
	} {
		if _, err := eventstore.New(pool, &config); !errors.Is(err, eventstore.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
}

// TestCommitAtTheLimit: a commit that is as large as allowed is stored.
func TestCommitAtTheLimit(t *testing.T) {
	t.Parallel()
	store, pool := open(t)
	megabyte := []byte(`"` + strings.Repeat("x", 1<<20-2) + `"`)
	c := eventstore.Change{Stream: stream("large"), Expected: eventstore.Any}
	for range 63 {
		c.Events = append(c.Events, eventstore.Draft{Type: "t", Data: megabyte})
	}
	if _, err := store.Commit(t.Context(), c); err != nil {
		t.Errorf("bytes: %v", err)
	}
	if _, err := store.Commit(t.Context(), changes("many", eventstore.MaxCommitStreams)...); err != nil {
		t.Errorf("streams: %v", err)
	}
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		_, err := store.WithTx(tx).Commit(t.Context(), changes("tx", eventstore.MaxCommitStreams)...)
		return err
	})
	if err != nil {
		t.Errorf("streams in a transaction: %v", err)
	}
}

// TestListSize: reads with a limit or a filter that is too large are refused.
func TestListSize(t *testing.T) {
	t.Parallel()
	store, _ := open(t)
	const huge = 1 << 30
	if _, err := store.Streams(t.Context(), "", eventstore.StreamID{}, huge); !errors.Is(err, eventstore.ErrInvalid) {
		t.Errorf("Streams: %v, want ErrInvalid", err)
	}
	if _, err := store.RecentStreams(t.Context(), "", 0, huge); !errors.Is(err, eventstore.ErrInvalid) {
		t.Errorf("RecentStreams: %v, want ErrInvalid", err)
	}
	if _, err := store.Next(t.Context(), eventstore.After(0), eventstore.Filter{}, huge); !errors.Is(err, eventstore.ErrInvalid) {
		t.Errorf("Next: %v, want ErrInvalid", err)
	}
	many := eventstore.Filter{Streams: make([]eventstore.StreamID, 100_000)}
	for i := range many.Streams {
		many.Streams[i] = stream("x")
	}
	if err := firstErr(store.ReadAll(t.Context(), 0, many)); !errors.Is(err, eventstore.ErrInvalid) {
		t.Errorf("ReadAll with %d streams: %v, want ErrInvalid", len(many.Streams), err)
	}
}
