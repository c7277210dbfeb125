// Package pause waits between attempts.
package pause

import (
	"context"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Sleep returns nil after d, or the cause of ctx as soon as ctx is done.
func Sleep(ctx context.Context, d time.Duration) error { return Wait(ctx, d, nil) }

// Wait is Sleep that returns nil early when woken is closed.
func Wait(ctx context.Context, d time.Duration, woken <-chan struct{}) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-woken:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Growing gives pauses that grow by half from one failure to the next. Each pause is changed at random by up to half,
// so that processes that failed together do not try again together. Growing is for one goroutine.
type Growing struct {
	backoff *backoff.ExponentialBackOff
	most    time.Duration
}

// NewGrowing returns pauses that begin at first and never exceed most.
func NewGrowing(first, most time.Duration) *Growing {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval = min(first, most), most
	return &Growing{backoff: b, most: most}
}

// Next returns the next pause.
func (g *Growing) Next() time.Duration { return min(g.backoff.NextBackOff(), g.most) } // the random change can exceed the limit

// Sleep waits for the next pause, like [Sleep].
func (g *Growing) Sleep(ctx context.Context) error { return Sleep(ctx, g.Next()) }

// Reset makes the next pause the first one again.
func (g *Growing) Reset() { g.backoff.Reset() }
