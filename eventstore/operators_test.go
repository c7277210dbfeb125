package eventstore_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/tidemark-es/tidemark/eventstore"
)

// TestTriggerThatDropsEvents: an operator's trigger prevents an event from being stored. The append of this event
// fails, and no other append. No caller is told that the event is stored.
func TestTriggerThatDropsEvents(t *testing.T) {
	t.Parallel()
	store, pool := open(t)
	mustExec(t, pool, `create function mute() returns trigger language plpgsql as $$ begin return null; end $$`)
	mustExec(t, pool, `create trigger mute before insert on tidemark.events for each row when (new.type = 'muted') execute function mute()`)
	muted := eventstore.Draft{Type: "muted", Data: []byte(`1`)}
	var appending sync.WaitGroup
	for n := range 40 {
		appending.Go(func() {
			id, drafts, ctx := stream(uuid.NewString()), []eventstore.Draft{draft(1)}, t.Context()
			if n%4 > 1 {
				ctx = eventstore.WithKey(ctx, id.Key, nil)
			}
			if n%8 > 3 {
				drafts = append(drafts, draft(2))
			}
			bad := n%2 == 0
			if bad {
				drafts[0] = muted
			}
			receipt, err := store.Append(ctx, id, eventstore.NoStream, drafts...)
			if bad == (err == nil) || bad && !strings.Contains(err.Error(), "kept an event from being stored") {
				t.Errorf("%d: %v, %v", n, receipt, err)
			}
			stored := 0
			for _, err := range store.Read(t.Context(), id, eventstore.ReadOptions{}) {
				if err != nil {
					t.Error(err)
				}
				stored++
			}
			if bad && stored > 0 || !bad && stored != len(drafts) {
				t.Errorf("%d: %d events are stored", n, stored)
			}
		})
	}
	appending.Wait()
}

// TestKeyEditedByHand: an inconsistent row of append_keys causes an error.
func TestKeyEditedByHand(t *testing.T) {
	t.Parallel()
	store, pool := open(t)
	ctx := func() context.Context { return eventstore.WithKey(t.Context(), "k", nil) }
	if _, err := store.Append(ctx(), stream("a"), eventstore.Any, draft(1)); err != nil {
		t.Fatal(err)
	}
	mustExec(t, pool, `update tidemark.append_keys set positions = '{}'`)
	if _, err := store.Append(ctx(), stream("a"), eventstore.Any, draft(2)); err == nil {
		t.Error("an append under the key succeeded")
	}
	if _, _, err := store.Receipts(ctx()); err == nil || !strings.Contains(err.Error(), "changed by hand") {
		t.Errorf("stored: %v", err)
	}
}

// TestKeyOfARepeat: an append is repeated with the same event ids, and now under a key. From then on the key alone
// identifies it.
func TestKeyOfARepeat(t *testing.T) {
	t.Parallel()
	store, _ := open(t)
	event := eventstore.Draft{ID: uuid.New(), Type: "t", Data: []byte(`1`)}
	first, err := store.Append(t.Context(), stream("a"), eventstore.NoStream, event)
	if err != nil {
		t.Fatal(err)
	}
	for _, drafts := range [][]eventstore.Draft{{event}, {draft(2)}} {
		again, err := store.Append(eventstore.WithKey(t.Context(), "k", nil), stream("a"), eventstore.NoStream, drafts...)
		if err != nil || again != first {
			t.Errorf("%v, %v; want %v", again, err, first)
		}
	}
}
