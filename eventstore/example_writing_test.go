package eventstore_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/eventstore/eventstoretest"
)

// An append whose answer was lost is repeated with the same event ids at the same version. The events are stored once,
// and the repeat returns the first receipt.
func ExampleErrUnknownOutcome() {
	ctx := context.Background()
	store := eventstoretest.NewMemory()
	events := encode(Opened{"Ada", "CZK"})
	events[0].ID = uuid.New() // the caller chooses the id, so that it can repeat it

	for attempt := range 3 {
		receipt, err := store.Append(ctx, account("42"), eventstore.NoStream, events...)
		switch {
		case errors.Is(err, eventstore.ErrUnknownOutcome):
			continue
		case err != nil:
			log.Fatal(err)
		}
		fmt.Println("attempt", attempt+1, "version", receipt.Version)
	}
	// Output:
	// attempt 1 version 1
	// attempt 2 version 1
	// attempt 3 version 1
}

// Idempotency keys are kept until the application purges them. Here it purges the keys that are older than a week.
func ExampleStore_PurgeKeys() {
	ctx := context.Background()
	store := eventstoretest.NewMemory()
	keyed := eventstore.WithKey(ctx, "request-1", nil)
	if _, err := store.Append(keyed, account("42"), eventstore.Any, encode(Deposited{100})...); err != nil {
		log.Fatal(err)
	}
	purged, err := store.PurgeKeys(ctx, 7*24*time.Hour)
	fmt.Println(purged, err)
	// Output: 0 <nil>
}

// Code that commits twice for one request gives the second commit a step of its own.
func ExampleWithStep() {
	store := eventstoretest.NewMemory()
	handle := func(request string) {
		ctx := eventstore.WithKey(context.Background(), request, nil)
		deposit, err := store.Append(ctx, account("42"), eventstore.Any, encode(Deposited{100})...)
		if err != nil {
			log.Fatal(err)
		}
		fee, err := store.Append(eventstore.WithStep(ctx, "fee"), account("fees"), eventstore.Any, encode(Deposited{1})...)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("deposit", deposit.Version, "fee", fee.Version)
	}
	handle("request-1")
	handle("request-1") // a repeat: neither commit is stored twice
	// Output:
	// deposit 1 fee 1
	// deposit 1 fee 1
}

// A check refuses commits by their content, before anything is sent.
func ExampleConfig_check() {
	_ = &eventstore.Config{
		Check: func(_ context.Context, changes []eventstore.Change) error {
			for _, change := range changes {
				if len(change.Events) > 100 {
					return fmt.Errorf("%d events in one change of stream %s: split them", len(change.Events), change.Stream)
				}
			}
			return nil
		},
	}
}

// An observer is told how every commit has ended. Here it logs conflicts and slow commits.
func ExampleObserver() {
	_ = &eventstore.Config{Observer: eventstore.Observer{
		Append: func(ctx context.Context, done eventstore.AppendDone) {
			if errors.Is(done.Err, eventstore.ErrConflict) || done.Took > time.Second {
				slog.WarnContext(ctx, "append", "stream", done.Changes[0].Stream, "took", done.Took, "error", done.Err)
			}
		},
	}}
}
