package projection

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pause"
	"github.com/tidemark-es/tidemark/projection/internal/feed"
)

// bus gives new events to functions of this process, see [Runner.Subscribe].
type bus struct {
	engine *engine

	mu      sync.Mutex
	start   func(*subscription) // nil while the runner does not run
	waiting map[*subscription]bool
	running sync.WaitGroup
}

// subscription is one call of Subscribe.
type subscription struct {
	projection *Projection
	after      eventstore.Mark
	known      []eventstore.Mark  // earlier marks of the log, the latest last: places to continue from if the log goes back
	stop       context.CancelFunc // set when the subscription is served
}

func newBus(e *engine) *bus { return &bus{engine: e, waiting: make(map[*subscription]bool)} }

// Subscribe calls the effects of sources, made by [Effect] and [EffectAll], for the events that are stored from now on.
// It does so while the runner runs, until unsubscribe is called. Use it for state of this process alone, such as caches
// and connections of clients. Every process gets every event, one after another, but no event from before the call. An
// effect that fails is logged and not tried again. After unsubscribe has returned, no other event is given to the
// effects. A call under way continues, and its context is done. An effect must return when its context is done, because
// [Runner.Run] waits for it.
func (r *Runner) Subscribe(ctx context.Context, sources ...EffectSource) (unsubscribe func(), err error) {
	p, err := newProjection("Runner.Subscribe", nil, sourcesOf(sources))
	if err != nil {
		return nil, fmt.Errorf("projection: Runner.Subscribe: %w", err)
	}
	if slices.ContainsFunc(p.sources, func(s source) bool { return s.batch != nil }) {
		return nil, fmt.Errorf("projection: Runner.Subscribe: it calls effects event by event: pass sources made by Effect or EffectAll, not by EffectBatch")
	}
	l := &subscription{projection: p, stop: func() {}}
	if l.after, err = r.engine.db.log.end(ctx); err != nil {
		return nil, fmt.Errorf("projection: subscribe: %w", err)
	}
	r.bus.add(l)
	return sync.OnceFunc(func() { r.bus.remove(l) }), nil
}

func (b *bus) add(l *subscription) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.start == nil {
		b.waiting[l] = true
		return
	}
	b.start(l)
}

func (b *bus) remove(l *subscription) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.waiting, l)
	l.stop()
}

// run serves subscriptions until ctx is done.
func (b *bus) run(ctx context.Context) {
	pages := b.engine.db.log.feed(ctx, eventstore.Filter{}, b.engine.config.BatchSize, b.engine.silence())
	b.mu.Lock()
	b.start = func(l *subscription) {
		ctx, stop := context.WithCancel(ctx)
		l.stop = stop
		b.running.Go(func() { b.serveGuarded(ctx, pages, l) })
	}
	for l := range b.waiting {
		b.start(l)
	}
	clear(b.waiting)
	b.mu.Unlock()
	<-ctx.Done()
	b.mu.Lock()
	b.start = func(*subscription) {}
	b.mu.Unlock()
	b.running.Wait()
	pages.Wait()
}

// serveGuarded serves a subscription, and serves it again after a panic in this package.
func (b *bus) serveGuarded(ctx context.Context, pages *feed.Feed, l *subscription) {
	for ctx.Err() == nil {
		err := guarded(func() error {
			b.serve(ctx, pages, l)
			return nil
		})
		if err == nil {
			return
		}
		b.engine.logger.ErrorContext(ctx, "projection: a subscription of this process failed and will be tried again", "position", l.after.Position, "error", err)
		_ = pause.Sleep(ctx, time.Second)
	}
}

// serve calls the effects of one subscription.
func (b *bus) serve(ctx context.Context, pages *feed.Feed, l *subscription) {
	pauses := pause.NewGrowing(100*time.Millisecond, b.engine.config.MaxBackoff)
	went := false // the log went back since the last page, and the subscription with it
	for ctx.Err() == nil {
		p, err := pages.Next(ctx, l.after)
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			if errors.Is(err, eventstore.ErrDiverged) && !went {
				if err = b.back(ctx, l, err); err == nil {
					went = true
					continue
				}
			}
			wait := pauses.Next()
			b.engine.logger.WarnContext(ctx, "projection: cannot read events for a subscription of this process",
				"position", l.after.Position, "after", wait, "error", err)
			_ = pause.Sleep(ctx, wait)
			went = false
			continue
		}
		went = false
		pauses.Reset()
		for _, i := range l.projection.items(p, l.after.Position, 0) {
			if ctx.Err() != nil {
				return
			}
			if err := callEffect(ctx, &i); err != nil && ctx.Err() == nil {
				b.engine.logger.ErrorContext(ctx, "projection: an effect of a subscription of this process failed",
					"stream", i.raw.Stream, "position", i.raw.Position, "type", i.raw.Type, "error", err)
			}
		}
		l.known = append(l.known[max(0, len(l.known)+1-maxKnown):], l.after)
		l.after = p.Mark()
	}
}

// maxKnown is how many marks a subscription remembers. There is one mark for each page.
const maxKnown = 100

// back moves a subscription to an earlier position when the log went back: to the last event that the subscription
// remembers and that is still in the log, or otherwise to the end of the log. Events that the subscription has seen may
// be gone, and others may be in their place.
func (b *bus) back(ctx context.Context, l *subscription, why error) error {
	at, found, err := b.engine.db.log.lastCommon(ctx, l.known)
	if err == nil && !found {
		at, err = b.engine.db.log.end(ctx)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", why, err)
	}
	b.engine.logger.ErrorContext(ctx, "projection: the log went back: a subscription of this process continues from an earlier position",
		"position", l.after.Position, "from", at.Position, "error", why)
	l.after, l.known = at, nil
	return nil
}
