package eventstoretest_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/eventstore/eventstoretest"
)

// A store for tests that need no Postgres.
func ExampleMemory() {
	store := eventstoretest.NewMemory()
	receipt, err := store.Append(context.Background(), eventstore.StreamID{Category: "account", Key: "42"}, eventstore.NoStream,
		eventstore.Draft{Type: "account.opened", Data: []byte(`{}`)})
	fmt.Println(receipt.Version, err)
	// Output: 1 <nil>
}

// A test of the application that keeps a sample of every event it has ever written. Run it with
// GOLDEN=update to write what is missing.
func ExampleGolden() {
	codec := eventstore.NewCodec(eventstore.TypeOf("account.opened", same[opened]))

	_ = func(t *testing.T) { // func TestGolden(t *testing.T)
		eventstoretest.Golden[event](t, "testdata/events", codec, opened{Owner: "Ada", Currency: "CZK"})
	}
}
