package projection_test

import (
	"strings"
	"testing"
	"time"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/migrations"
)

// TestLongSchema: runners get each other's notifications whatever the length of the schema's name. The name of a
// channel can have 63 bytes.
func TestLongSchema(t *testing.T) {
	t.Parallel()
	for _, length := range []int{51, 52, 63} {
		f := setup(t)
		schema := strings.Repeat("s", length)
		if err := migrations.Up(t.Context(), f.pool, &migrations.Config{Schema: schema}); err != nil {
			t.Fatal(err)
		}
		store, err := eventstore.New(f.pool, &eventstore.Config{Schema: schema})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(store.Close)
		config := *quiet
		config.Schema, config.Lease = schema, 30*time.Second
		r, _ := f.start(&config, store, by(2, "a", 16, nil))
		for range 5 { // a runner that only polls notices within a second, and by chance at once
			_, stop := f.start(&config, store, by(1, "a", 16, nil))
			f.awaitShares(r, 8, 8)
			start := time.Now()
			stop()
			f.awaitShares(r, 16)
			if took := time.Since(start); took > time.Second/2 {
				t.Errorf("schema of %d bytes: the partitions were taken over after %s", length, took)
			}
		}
	}
}
