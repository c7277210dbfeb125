package pause_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-es/tidemark/internal/pause"
)

// TestSleep: a pause takes its time, and a context that is done ends it with its cause.
func TestSleep(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		if err := pause.Sleep(t.Context(), time.Hour); err != nil || time.Since(began) != time.Hour {
			t.Errorf("after %s: %v, want nil after an hour", time.Since(began), err)
		}
		why := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(why) })
		began = time.Now()
		if err := pause.Sleep(ctx, time.Hour); err != why || time.Since(began) != time.Second {
			t.Errorf("after %s: %v, want the cause after a second", time.Since(began), err)
		}
	})
}

// TestWait: closing the channel ends the pause.
func TestWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		woken := make(chan struct{})
		time.AfterFunc(time.Minute, func() { close(woken) })
		began := time.Now()
		if err := pause.Wait(t.Context(), time.Hour, woken); err != nil || time.Since(began) != time.Minute {
			t.Errorf("after %s: %v, want nil after a minute", time.Since(began), err)
		}
	})
}

// TestGrowing: pauses grow, differ by up to half from their planned length, and never exceed the limit.
func TestGrowing(t *testing.T) {
	t.Parallel()
	g := pause.NewGrowing(100*time.Millisecond, time.Second)
	for range 2 {
		want := 100 * time.Millisecond
		for n := range 20 {
			if got := g.Next(); got < want/2 || got > min(want*3/2+1, time.Second) {
				t.Errorf("pause %d is %s, want %s, give or take a half, and a second at most", n, got, want)
			}
			want = min(want*3/2, time.Second)
		}
		g.Reset()
	}
	if got := pause.NewGrowing(time.Minute, time.Millisecond).Next(); got > time.Millisecond {
		t.Errorf("a first pause beyond the limit is %s, want at most a millisecond", got)
	}
}
