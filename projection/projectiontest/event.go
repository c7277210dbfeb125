package projectiontest

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
)

// Event is an event of a history: the draft to store, and its stream. [Events] makes them from typed events. For an
// event as an earlier release has stored it, write the draft by hand:
//
//	projectiontest.Event{Stream: ada, Draft: eventstore.Draft{Type: "opened", Schema: 1, Data: []byte(`{"name":"Ada"}`)}}
type Event struct {
	Stream eventstore.StreamID
	Draft  eventstore.Draft

	schemas []int // the schemas of its type, as far as they are known
	err     error // why there is no draft
}

// Events returns events of one stream, in their order. Put the events of several streams together with [slices.Concat].
// An event that the codec does not have fails the test that uses it.
func Events[E any](c *codec.Codec[E], stream eventstore.StreamID, events ...E) []Event {
	all := make([]Event, len(events))
	if c == nil {
		return []Event{{Stream: stream, err: errors.New("projectiontest.Events: the codec is nil: pass one that codec.New returned")}}
	}
	for n, event := range events {
		draft, err := c.Encode(event)
		all[n] = Event{Stream: stream, Draft: draft, schemas: c.Schemas(draft.Type), err: err}
	}
	return all
}

// identified gives ids to the events that have none. The ids are the same each time.
func identified(events []Event) []Event {
	all := make([]Event, len(events))
	for n, event := range events {
		if event.Draft.ID == uuid.Nil {
			event.Draft.ID = uuid.NewSHA1(uuid.NameSpaceURL, fmt.Appendf(nil, "projectiontest/%d", n))
		}
		all[n] = event
	}
	return all
}

// appendAll stores the events in their order.
func appendAll(ctx context.Context, store *eventstore.Store, events []Event) error {
	for len(events) > 0 {
		stream := events[0].Stream
		var drafts []eventstore.Draft
		for len(events) > 0 && events[0].Stream == stream && len(drafts) < 1000 {
			if events[0].err != nil {
				return events[0].err
			}
			drafts = append(drafts, events[0].Draft)
			events = events[1:]
		}
		if _, err := store.Append(ctx, stream, eventstore.Any, drafts...); err != nil {
			return err
		}
	}
	return nil
}

// appendWithGaps stores the events with gaps between their positions. Appends that are rolled back take the positions
// in the gaps, as happens with conflicts.
func appendWithGaps(ctx context.Context, pool *pgxpool.Pool, store *eventstore.Store, events []Event) error {
	for n := range events {
		for range n%3 + 1 {
			if err := appendNothing(ctx, pool, store); err != nil {
				return err
			}
		}
		if err := appendAll(ctx, store, events[n:n+1]); err != nil {
			return err
		}
	}
	return nil
}

func appendNothing(ctx context.Context, pool *pgxpool.Pool, store *eventstore.Store) error {
	tx, err := pool.Begin(ctx)
	if err != nil {
		return err
	}
	stream := eventstore.StreamID{Category: "projectiontest", Key: "rolled back"}
	_, err = store.WithTx(tx).Append(ctx, stream, eventstore.Any, eventstore.Draft{Type: "projectiontest", Data: []byte(`{}`)})
	return errors.Join(err, tx.Rollback(ctx))
}
