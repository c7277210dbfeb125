package eventstoretest_test

import (
	"context"
	"fmt"

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
