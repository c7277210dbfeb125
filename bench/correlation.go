package main

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/tidemark-es/tidemark/eventstore"
)

// correlated appends single events, each with a new id. The id is the correlation id if indexed, and otherwise a
// header, which no index has.
func (db *database) correlated(indexed bool) write {
	return func(ctx context.Context, stream eventstore.StreamID, after eventstore.Version) (int, error) {
		draft, id := db.draft, uuid.NewString()
		draft.Metadata = eventstore.Metadata{Headers: map[string]string{"id": id}}
		if indexed {
			draft.Metadata = eventstore.Metadata{CorrelationID: id}
		}
		if _, err := db.Append(ctx, stream, after, draft); err != nil {
			return 0, err
		}
		db.appended.Add(1)
		return 1, nil
	}
}

// finds is how many events are looked up by their id.
const finds = 200

func (b *bench) correlation(ctx context.Context) error {
	b.section("Correlation", "Appends of single events, each with a correlation id of its own. The reference appends the same bytes in a header, "+
		"which no index has. The last rows are how long it takes to find an event by its id, for which there is no index.",
		append([]string{"what", "writers"}, columns("without")...)...)
	return b.database(ctx, func(db *database) error {
		for _, writers := range []int{1, 16, 256} {
			c, err := compare(ctx, b.duration(), db.by(writers, db.correlated(false)), db.by(writers, db.correlated(true)))
			if err != nil {
				return err
			}
			b.row(append([]string{"append", whole(writers)}, c.cells()...)...)
		}
		if err := db.settle(ctx); err != nil {
			return err
		}
		end, err := db.Tidemark(ctx)
		if err != nil {
			return err
		}
		var sample []time.Duration
		for n := range finds {
			events, err := db.EventsAt(ctx, 1+eventstore.Position(n)*(end-1)/finds)
			if err != nil {
				return err
			}
			for _, e := range events {
				start := time.Now()
				if _, err := db.Event(ctx, e.ID); err != nil {
					return err
				}
				sample = append(sample, time.Since(start))
			}
		}
		for _, p := range []int{50, 99} {
			b.row(fmt.Sprintf("find an event among %d, p%d", end, p), "1", millis(percentile(sample, p)))
		}
		return nil
	})
}
