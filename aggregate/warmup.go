package aggregate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/isnil"
	"github.com/tidemark-es/tidemark/snapshot"
)

// Lister lists streams by name, as [eventstore.Store.Streams] does.
type Lister interface {
	Streams(ctx context.Context, prefix string, after eventstore.StreamID, limit int) ([]eventstore.StreamInfo, error)
}

// WarmUp says how far [Repository.WarmUp] has come.
type WarmUp struct {
	Last    eventstore.StreamID // all streams up to this name are done; continue after it
	Saved   int                 // streams that have a new snapshot
	Current int                 // streams that had a snapshot of their last event
	Failed  int                 // streams whose events or state the codecs refuse
	Deleted int                 // snapshots of another shape or of an older schema, deleted at the end
	Err     error               // of one of the failed streams
}

const (
	warmPage    = 200  // streams that are listed at a time
	warmAtOnce  = 4    // streams that are loaded at a time
	warmBatch   = 16   // snapshots that are saved at a time
	deleteBatch = 1000 // snapshots that are deleted at a time
)

// WarmUp takes snapshots of all aggregates of the repository's category that come after the given stream. Then it
// deletes snapshots of another shape or of an older schema. Run it when a service begins to use snapshots. Run it also
// after a release that has changed the state, when the last process of the previous release has ended. A snapshot of a
// stream's last event is checked and left as it is. A snapshot that cannot be used is replaced.
//
// WarmUp calls report, which can be nil, after every 200 streams, and at the end with the value that it returns. An
// aggregate whose events or state the codecs refuse does not stop it. WarmUp is safe while the service runs, because a
// snapshot never replaces a later one of its kind. An older release that still runs loads from events until it has
// taken its own snapshots again. When ctx is done or Postgres fails, the error says so, and Last says where to
// continue. In a caller's transaction, and without snapshots, the error is an eventstore.InvalidError.
func (r *Repository[S, E]) WarmUp(ctx context.Context, streams Lister, after eventstore.StreamID, report func(WarmUp)) (WarmUp, error) {
	done := WarmUp{Last: after}
	if r.snapshots == nil { // also in a caller's transaction
		return done, fmt.Errorf("aggregate: warm up %s: %w", r.definition.category, &eventstore.InvalidError{Reason: "the repository has no snapshots"})
	}
	if isnil.Any(streams) {
		return done, refused("warm up "+r.definition.category, "the Lister is nil: pass the event store")
	}
	if report == nil {
		report = func(WarmUp) {}
	}
	for {
		page, err := streams.Streams(ctx, r.definition.category+"-", done.Last, warmPage)
		if err == nil {
			err = r.warm(ctx, page, &done)
		}
		if err != nil {
			return done, fmt.Errorf("aggregate: warm up %s after %s: %w", r.definition.category, done.Last, err)
		}
		if len(page) == 0 {
			break
		}
		done.Last = page[len(page)-1].Stream
		report(done)
	}
	for {
		n, err := r.snapshots.Store().DeleteOutdated(ctx, r.definition.category, r.definition.state.kind, deleteBatch)
		done.Deleted += n
		if err != nil {
			return done, fmt.Errorf("aggregate: warm up %s: %w", r.definition.category, err)
		}
		if n < deleteBatch {
			report(done)
			return done, nil
		}
	}
}

// warm saves the snapshots of a page of streams. If it fails, nothing of the page counts.
func (r *Repository[S, E]) warm(ctx context.Context, page []eventstore.StreamInfo, done *WarmUp) error {
	var (
		mu    sync.Mutex
		taken []snapshot.Snapshot
		next  = *done
	)
	group, loading := errgroup.WithContext(ctx)
	group.SetLimit(warmAtOnce)
	for _, info := range page {
		group.Go(func() error {
			s, isNew, err := r.warmOne(loading, info.Stream)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case isRefused(err):
				next.Failed++
				next.Err = err
			case err != nil:
				return err
			case isNew:
				taken = append(taken, s)
			default:
				next.Current++
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for batch := range slices.Chunk(taken, warmBatch) {
		if err := r.snapshots.Store().Save(ctx, batch...); err != nil {
			return err
		}
	}
	next.Saved += len(taken)
	*done = next
	return nil
}

// isRefused reports whether an error is about one aggregate, and another attempt would fail in the same way.
func isRefused(err error) bool {
	return errors.Is(err, codec.ErrDecode) || errors.Is(err, codec.ErrUnknownType) || errors.Is(err, errEncode) ||
		errors.Is(err, eventstore.ErrInvalid) // a stream name that another client has stored
}

// warmOne returns a new snapshot of a stream, and whether there is one to be saved.
func (r *Repository[S, E]) warmOne(ctx context.Context, stream eventstore.StreamID) (snapshot.Snapshot, bool, error) {
	f, err := r.load(ctx, stream, eventstore.ReadOptions{}) // checks the stored snapshot too
	if err != nil || f.from == f.version {
		return snapshot.Snapshot{}, false, err
	}
	s := r.snapshotOf(f)
	s.Data, err = r.definition.EncodeState(f.state)
	return s, true, err
}
