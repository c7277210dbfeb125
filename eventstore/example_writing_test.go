package eventstore_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/google/uuid"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/eventstore/eventstoretest"
)

// An append whose answer was lost is repeated with the same event ids at the same version: it is
// stored once, and answered with the first receipt.
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

// Idempotency keys are kept until somebody forgets them, here those of more than a week.
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

// older shapes of account.opened
type (
	openedFirst  struct{ Name string }
	openedSecond struct{ Owner string }
)

// From each shape to the next: a new one needs one more step.
func ExampleUpcast() {
	codec := eventstore.NewCodec(
		eventstore.Upcast[AccountEvent]("account.opened", 1, func(e openedFirst) openedSecond { return openedSecond{Owner: e.Name} }),
		eventstore.Upcast[AccountEvent]("account.opened", 2, func(e openedSecond) Opened { return Opened{e.Owner, "CZK"} }),
		eventstore.TypeOf("account.opened", func(e Opened) AccountEvent { return e }).WithSchema(3),
	)
	printMeaning(codec, "account.opened", 1, `{"Name":"Ada"}`)
	printMeaning(codec, "account.opened", 2, `{"Owner":"Ada"}`)
	printMeaning(codec, "account.opened", 3, `{"owner":"Ada","currency":"EUR"}`)
	// Output:
	// eventstore_test.Opened{Owner:"Ada", Currency:"CZK"}
	// eventstore_test.Opened{Owner:"Ada", Currency:"CZK"}
	// eventstore_test.Opened{Owner:"Ada", Currency:"EUR"}
}

func printMeaning(codec *eventstore.Codec[AccountEvent], name string, schema int, data string) {
	events, err := codec.Decode(eventstore.Raw{Type: name, Schema: schema, Data: json.RawMessage(data)})
	if err != nil {
		fmt.Println(err)
		return
	}
	if len(events) == 0 {
		fmt.Println("nothing")
	}
	for _, event := range events {
		fmt.Printf("%#v\n", event.Data)
	}
}

// A step over the payload itself needs no Go type for the older shape.
func ExampleUpcastJSON() {
	codec := eventstore.NewCodec(
		eventstore.UpcastJSON[AccountEvent]("account.deposited", 1, func(data json.RawMessage) (json.RawMessage, error) {
			var old struct{ Crowns int64 }
			if err := json.Unmarshal(data, &old); err != nil {
				return nil, err
			}
			return json.Marshal(map[string]int64{"amount": old.Crowns * 100})
		}),
		eventstore.TypeOf("account.deposited", func(e Deposited) AccountEvent { return e }).WithSchema(2),
	)
	printMeaning(codec, "account.deposited", 1, `{"crowns":5}`)
	// Output: eventstore_test.Deposited{Amount:500}
}

// One stored event that means several today, or none.
func ExampleSplit() {
	type openedWithMoney struct {
		Owner  string
		Amount int64
	}
	codec := eventstore.NewCodec(
		eventstore.Split("account.opened_with_money", func(e openedWithMoney) []AccountEvent {
			return []AccountEvent{Opened{e.Owner, "CZK"}, Deposited{e.Amount}}
		}),
	)
	printMeaning(codec, "account.opened_with_money", 1, `{"Owner":"Ada","Amount":7}`)
	// Output:
	// eventstore_test.Opened{Owner:"Ada", Currency:"CZK"}
	// eventstore_test.Deposited{Amount:7}
}

// A type that got another name, and one that means nothing any more.
func ExampleRenamed() {
	codec := eventstore.NewCodec(
		eventstore.TypeOf("account.deposited", func(e Deposited) AccountEvent { return e }),
		eventstore.Renamed[AccountEvent]("account.paid_in", "account.deposited"),
		eventstore.Retired[AccountEvent]("account.newsletter_ordered"),
	)
	printMeaning(codec, "account.paid_in", 1, `{"amount":5}`)
	printMeaning(codec, "account.newsletter_ordered", 1, `{}`)
	// Output:
	// eventstore_test.Deposited{Amount:5}
	// nothing
}

// What a codec makes of types and fields that it does not know: an error for the type, nothing for
// the field. A strict one refuses both, a tolerant one neither.
func ExampleCodec_Strict() {
	for _, codec := range []*eventstore.Codec[AccountEvent]{accounts, accounts.Strict(), accounts.Tolerant()} {
		_, field := codec.Decode(eventstore.Raw{Type: "account.deposited", Schema: 1, Data: json.RawMessage(`{"amount":5,"note":"rent"}`)})
		_, unknown := codec.Decode(eventstore.Raw{Type: "account.renamed", Schema: 1, Data: json.RawMessage(`{}`)})
		fmt.Println(errors.Is(field, eventstore.ErrDecode), errors.Is(unknown, eventstore.ErrUnknownType))
	}
	// Output:
	// false true
	// true true
	// false false
}
