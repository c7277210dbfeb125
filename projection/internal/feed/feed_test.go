package feed_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/google/uuid"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection/internal/feed"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a log whose events have the given positions. A reader at its end waits until ctx is done.
type fake struct {
	ctx    context.Context
	events []eventstore.Raw
	reads  atomic.Int64
	gate   chan struct{} // nil: read returns at once
	err    error
}

func newFake(ctx context.Context, positions ...eventstore.Position) *fake {
	f := &fake{ctx: ctx}
	for _, p := range positions {
		f.events = append(f.events, eventstore.Raw{Position: p, ID: uuid.New()})
	}
	return f
}

func (f *fake) read(after eventstore.Mark, limit int) (eventstore.Page, error) {
	f.reads.Add(1)
	if f.gate != nil {
		<-f.gate
	}
	if f.err != nil {
		return eventstore.Page{}, f.err
	}
	first := slices.IndexFunc(f.events, func(e eventstore.Raw) bool { return e.Position > after.Position })
	if first < 0 {
		<-f.ctx.Done()
		return eventstore.Page{}, f.ctx.Err()
	}
	events := f.events[first:min(first+limit, len(f.events))]
	last := events[len(events)-1]
	return eventstore.Page{Events: events, Through: last.Position, ID: last.ID, More: first+limit < len(f.events)}, nil
}

// numbers returns the positions from 1 to n.
func numbers(n int) (positions []eventstore.Position) {
	for p := range n {
		positions = append(positions, eventstore.Position(p+1))
	}
	return positions
}

// TestNothingLeftOut: each reader sees every event once, wherever the readers are, and although the feed forgets pages.
func TestNothingLeftOut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var positions []eventstore.Position
		at := eventstore.Position(0)
		for range rapid.IntRange(1, 300).Draw(t, "events") {
			at += eventstore.Position(rapid.IntRange(1, 3).Draw(t, "gap"))
			positions = append(positions, at)
		}
		ctx, cancel := context.WithCancel(context.Background())
		f := feed.New(newFake(ctx, positions...).read, rapid.IntRange(1, 40).Draw(t, "limit"))
		defer f.Wait()
		defer cancel()
		marks := make([]eventstore.Mark, rapid.IntRange(1, 4).Draw(t, "readers"))
		seen := make([][]eventstore.Position, len(marks))
		for {
			var behind []int
			for n, m := range marks {
				if m.Position < at {
					behind = append(behind, n)
				}
			}
			if len(behind) == 0 {
				break
			}
			n := rapid.SampledFrom(behind).Draw(t, "reader")
			if rapid.IntRange(0, 9).Draw(t, "forget") == 0 {
				f.Forget()
			}
			page, err := f.Next(ctx, marks[n])
			if err != nil {
				t.Fatal(err)
			}
			if page.After > marks[n].Position || page.Through <= marks[n].Position {
				t.Fatalf("a page from %d to %d after %d", page.After, page.Through, marks[n].Position)
			}
			for _, e := range page.Events {
				if e.Position > marks[n].Position {
					seen[n] = append(seen[n], e.Position)
				}
			}
			marks[n] = page.Mark()
		}
		for n := range seen {
			if !slices.Equal(seen[n], positions) {
				t.Fatalf("reader %d has seen %v of %v", n, seen[n], positions)
			}
		}
	})
}

// TestShared: readers at the same mark share a read, and readers a little behind need no read.
func TestShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newFake(t.Context(), numbers(10)...)
		log.gate = make(chan struct{})
		f := feed.New(log.read, 10)
		var readers sync.WaitGroup
		for range 10 {
			readers.Go(func() {
				if p, err := f.Next(t.Context(), eventstore.Mark{}); err != nil || p.Through != 10 {
					t.Errorf("%+v, %v", p, err)
				}
			})
		}
		synctest.Wait()
		close(log.gate)
		readers.Wait()
		if p, err := f.Next(t.Context(), eventstore.After(4)); err != nil || p.After != 0 {
			t.Errorf("a reader behind: %+v, %v; want the page that is kept", p, err)
		}
		if n := log.reads.Load(); n != 1 {
			t.Errorf("the log was read %d times, want once", n)
		}
		f.Wait()
	})
}

// TestReadAhead: while a page is being handled, the feed reads the next two pages, and no more.
func TestReadAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newFake(t.Context(), numbers(10)...)
		f := feed.New(log.read, 1)
		at := eventstore.Mark{}
		for n := range 10 {
			p, err := f.Next(t.Context(), at)
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if reads, want := log.reads.Load(), int64(min(n+2, 10)); reads < want || reads > int64(n+3) {
				t.Errorf("at page %d the log was read %d times, want from %d to %d", n+1, reads, want, n+3)
			}
			at = p.Mark()
		}
		f.Wait()
	})
}

// TestBounded: a feed keeps the last pages of a long log, and a reader at the beginning reads on its own.
func TestBounded(t *testing.T) {
	t.Parallel()
	log := newFake(t.Context(), numbers(100)...)
	f := feed.New(log.read, 1)
	for at := (eventstore.Mark{}); at.Position < 100; {
		p, err := f.Next(t.Context(), at)
		if err != nil {
			t.Fatal(err)
		}
		at = p.Mark()
	}
	f.Wait()
	before := log.reads.Load()
	if _, err := f.Next(t.Context(), eventstore.After(99)); err != nil || log.reads.Load() != before {
		t.Errorf("the last page was read again (%v)", err)
	}
	if _, err := f.Next(t.Context(), eventstore.Mark{}); err != nil || log.reads.Load() == before {
		t.Errorf("the first of 100 pages is still kept (%v)", err)
	}
	f.Wait()
}

// TestDiverged: after a log went back, all readers read again.
func TestDiverged(t *testing.T) {
	t.Parallel()
	log := newFake(t.Context(), numbers(10)...)
	f := feed.New(log.read, 5)
	if _, err := f.Next(t.Context(), eventstore.Mark{}); err != nil {
		t.Fatal(err)
	}
	f.Wait() // then the second page is kept too
	log.err = &eventstore.DivergedError{Position: 10}
	if _, err := f.Next(t.Context(), eventstore.After(10)); !errors.Is(err, eventstore.ErrDiverged) {
		t.Fatalf("%v, want ErrDiverged", err)
	}
	if _, err := f.Next(t.Context(), eventstore.Mark{}); !errors.Is(err, eventstore.ErrDiverged) {
		t.Errorf("%v, want ErrDiverged: a page of the log that is gone was kept", err)
	}
}

// TestCancel: when a reader gives up, its read continues for the other readers.
func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newFake(t.Context(), numbers(1)...)
		log.gate = make(chan struct{})
		f := feed.New(log.read, 5)
		why := errors.New("no time")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, why)
		defer cancel()
		if _, err := f.Next(ctx, eventstore.Mark{}); !errors.Is(err, why) {
			t.Errorf("%v, want the cause", err)
		}
		close(log.gate)
		if p, err := f.Next(t.Context(), eventstore.Mark{}); err != nil || p.Through != 1 || log.reads.Load() != 1 {
			t.Errorf("%+v, %v after %d reads", p, err, log.reads.Load())
		}
		f.Wait()
	})
}

// TestDerive: a value is computed once for each key of a page, whichever goroutine asks first.
func TestDerive(t *testing.T) {
	t.Parallel()
	p := feed.NewPage(0, eventstore.Page{})
	var made [2]atomic.Int64
	var all sync.WaitGroup
	for n := range 20 {
		all.Go(func() {
			key := n % 2
			if got := feed.Derive(p, key, func() int { made[key].Add(1); return 10 + key }); got != 10+key {
				t.Errorf("key %d: %d", key, got)
			}
		})
	}
	all.Wait()
	if made[0].Load() != 1 || made[1].Load() != 1 {
		t.Errorf("computed %d and %d times, want once each", made[0].Load(), made[1].Load())
	}
}
