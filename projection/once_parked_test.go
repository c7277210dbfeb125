package projection_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// TestEffectOfAParkedEvent: the live version cannot handle some events, and the next version can. The effect of such an
// event happens once, in the version that handles it first, whether the old version tries the event again before the
// switch or after it.
func TestEffectOfAParkedEvent(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.exec(`create table effects (position bigint, version int)`)
	var fixed atomic.Bool
	broken := func(ctx context.Context, tx pgx.Tx, e eventstore.Event[counted]) error {
		if !fixed.Load() && (e.Stream.Key == "old-1" || e.Stream.Key == "old-2") {
			return errors.New("a bug")
		}
		return rollEffect(1)(ctx, tx, e)
	}
	one := rollHandler(projection.Options{MaxAttempts: 1}, broken)
	r1, _ := f.rollProcess(small(), one)
	last := f.rollHistory(5, 3)
	f.wait(r1, last)
	if _, err := r1.Operator().Skip(t.Context(), projection.Ref{Name: "tally", Version: 1}, "counter-old-2", f.rollFirst("old-2"), "a test"); err == nil {
		t.Error("Skip returned no error, but the next event of the key fails too")
	}
	r2, _ := f.rollProcess(small(), rollHandler(projection.Options{Version: 2}, rollEffect(2)))
	f.rollPhase(2, "live")
	f.wait(r2, last)
	f.equal("effects of version 2", int64(5), f.rollNumber(`select count(*) from effects where version = 2`))
	fixed.Store(true)
	if _, err := r1.Operator().Retry(t.Context(), projection.Ref{Name: "tally", Version: 1}); err != nil {
		t.Fatal(err)
	}
	missing := f.rollNumber(`
		select count(*)
		  from tidemark.events
		 where position not in (select position from effects)`)
	f.equal("effects that are missing: the one that was skipped", int64(1), missing)
	f.equal("effects", int64(14), f.rollNumber(`select count(*) from effects`))
	f.checkRolled()
}

// rollFirst returns the position of the first event of a stream.
func (f *fixture) rollFirst(key string) eventstore.Position {
	f.Helper()
	first := `select min(position) from tidemark.events where stream = $1`
	return eventstore.Position(f.rollNumber(first, "counter-"+key))
}
