package eventstoretest_test

import (
	"context"
	"errors"
	"iter"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/eventstore/eventstoretest"
)

// stale is a store whose reads now and then miss the last event.
type stale struct {
	*eventstoretest.Memory
	reads atomic.Int64
}

func (s *stale) Read(ctx context.Context, id eventstore.StreamID, options eventstore.ReadOptions) iter.Seq2[eventstore.Raw, error] {
	if s.reads.Add(1)%4 == 0 {
		info, _ := s.Stat(ctx, id)
		options.To = max(info.Version-1, 1)
	}
	return s.Memory.Read(ctx, id, options)
}

// careless is a store that ignores the expected version.
type careless struct{ *eventstoretest.Memory }

func (s careless) Append(ctx context.Context, id eventstore.StreamID, _ eventstore.Version, events ...eventstore.Draft) (eventstore.Receipt, error) {
	return s.Memory.Append(ctx, id, eventstore.Any, events...)
}

// vague is a store whose conflicts have an earlier version of the stream.
type vague struct{ *eventstoretest.Memory }

func (s vague) Append(ctx context.Context, id eventstore.StreamID, expected eventstore.Version, events ...eventstore.Draft) (eventstore.Receipt, error) {
	receipt, err := s.Memory.Append(ctx, id, expected, events...)
	var conflict *eventstore.ConflictError
	if errors.As(err, &conflict) {
		conflict.Actual--
	}
	return receipt, err
}

// TestLinearizableFinds: the check of the suite finds stores that are not linearizable.
func TestLinearizableFinds(t *testing.T) {
	t.Parallel()
	for name, store := range map[string]eventstoretest.Store{
		"stale reads":       &stale{Memory: eventstoretest.NewMemory()},
		"careless appends":  careless{eventstoretest.NewMemory()},
		"conflicts too low": vague{eventstoretest.NewMemory()},
	} {
		if err := eventstoretest.Linearizable(t.Context(), store); err == nil || !strings.Contains(err.Error(), "fit no order") {
			t.Errorf("%s were not found: %v", name, err)
		}
	}
}
