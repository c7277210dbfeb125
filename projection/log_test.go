package projection_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/eventstore/eventstoretest"
	"github.com/tidemark-es/tidemark/projection"
)

// elsewhere is a log outside the database. It has the methods that every log must have, and no optional ones.
type elsewhere struct {
	projection.Log
	memory *eventstoretest.Memory
	id     uuid.UUID // overrides the identity of memory, if it is set
}

func newElsewhere() *elsewhere {
	memory := eventstoretest.NewMemory()
	return &elsewhere{Log: memory, memory: memory}
}

func (l *elsewhere) Identity(ctx context.Context) (uuid.UUID, error) {
	if l.id != uuid.Nil {
		return l.id, nil
	}
	return l.Log.Identity(ctx)
}

// put is fixture.put for a log that is elsewhere.
func (l *elsewhere) put(t *testing.T, key string, numbers ...int) (last eventstore.Position) {
	t.Helper()
	for _, n := range numbers {
		draft, err := counting.Encode(counted{n})
		if err != nil {
			t.Fatal(err)
		}
		receipt, err := l.memory.Append(t.Context(), eventstore.StreamID{Category: "counter", Key: key}, eventstore.Any, draft)
		if err != nil {
			t.Fatal(err)
		}
		last = receipt.Position
	}
	return last
}

// streams returns the numbers that a kind of projection has handled, by stream.
func (l *elsewhere) streams(f *fixture, k kind, name string) map[string]string {
	f.Helper()
	if k.name == "table" {
		return f.streams(fmt.Sprintf(`select stream, trim(numbers) from %s`, name))
	}
	numbers := make(map[string]string)
	for e, err := range l.memory.ReadAll(f.Context(), 0, eventstore.Filter{}) {
		if err != nil {
			f.Fatal(err)
		}
		var n int
		for range times(f.model(name), e.Position) {
			if err := json.Unmarshal(e.Data, &struct{ N *int }{&n}); err != nil {
				f.Fatal(err)
			}
			numbers[e.Stream.String()] = strings.TrimSpace(fmt.Sprint(numbers[e.Stream.String()], " ", n))
		}
	}
	return numbers
}

func times(positions []eventstore.Position, one eventstore.Position) (n int) {
	for _, p := range positions {
		if p == one {
			n++
		}
	}
	return n
}

// TestLogElsewhere: projections of every kind follow a log that is not in their database. They handle, park, retry and
// skip events, and are rebuilt.
func TestLogElsewhere(t *testing.T) {
	t.Parallel()
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			f, log := setup(t), newElsewhere()
			var floor atomic.Int64
			hook := func(_ context.Context, _ pgx.Tx, e eventstore.Event[counted]) error {
				if int64(e.Data.N) < floor.Load() {
					return errors.New("too low")
				}
				return nil
			}
			options := projection.Options{MaxAttempts: 1, Partitions: 2}
			live := projection.Ref{Name: "a", Version: projection.Live}
			r, stop := f.start(quiet, log, k.make(f, "a", options, hook))
			log.put(t, "x", 1, 2)
			log.put(t, "y", -1, 3)
			f.wait(r, log.put(t, "z", -2, 4))
			f.equal("handled numbers", map[string]string{"counter-x": "1 2"}, log.streams(f, k, "a"))

			operator, err := projection.NewOperator(f.pool, &projection.OperatorConfig{Log: log})
			if err != nil {
				t.Fatal(err)
			}
			letters, err := operator.DeadLetters(t.Context(), live, "", 0, 10)
			if err != nil || len(letters) != 2 || letters[0].Stream != "counter-y" || letters[0].Type != "counted" || string(letters[0].Data) != `{"N":-1}` {
				t.Errorf("dead letters %+v, %v; want those of y and z with their events", letters, err)
			}
			floor.Store(-1)
			if n, err := r.Operator().Retry(t.Context(), live, "counter-y"); n != 2 || err != nil {
				t.Errorf("retry: %d handled, %v; want 2", n, err)
			}
			if _, err := r.Operator().Skip(t.Context(), live, "counter-z", letters[1].Position, "not wanted"); err != nil {
				t.Error(err)
			}
			want := map[string]string{"counter-x": "1 2", "counter-y": "-1 3", "counter-z": "4"}
			f.equal("after retry and skip", want, log.streams(f, k, "a"))
			s, err := operator.Status(t.Context())
			if p := s.Projections[0]; err != nil || s.Tidemark != 6 || s.LogEnd != 6 || s.Held != nil || p.Lag != 0 || p.Parked != 0 {
				t.Errorf("status %+v, %v; want the tidemark and the log's end at 6, and no lag", s, err)
			}
			if err := operator.Pause(t.Context(), live, "look at lag"); err != nil {
				t.Fatal(err)
			}
			last := log.put(t, "x", 5, 6, 7)
			if p := f.statusOf(r, "a"); p.Lag != 3 || p.LagTime < 0 {
				t.Errorf("lag %d, %s; want 3 events", p.Lag, p.LagTime)
			}
			if err := operator.Resume(t.Context(), live); err != nil {
				t.Fatal(err)
			}
			f.wait(r, last)
			if err := r.Operator().StartInline(t.Context(), live); !errors.Is(err, projection.ErrRefused) {
				t.Errorf("start inline: %v, want ErrRefused", err)
			}

			// Another process continues where the first one has stopped, and builds the next version.
			stop()
			if k.name == "subscription" { // a subscription has no versions
				r, _ = f.start(quiet, log, k.make(f, "a", options, hook))
				f.wait(r, log.put(t, "y", 8))
				f.equal("in the next process", "-1 3 8", log.streams(f, k, "a")["counter-y"])
				return
			}
			next := options
			next.Version = 2
			r, _ = f.start(quiet, log, k.make(f, "a", options, hook), k.make(f, "a", next, hook))
			f.untilLive(r, 2)
			f.wait(r, log.put(t, "y", 8))
			if k.name == "table" {
				want = map[string]string{"counter-x": "1 2 5 6 7", "counter-y": "-1 3 8", "counter-z": "-2 4"} // all events, also the skipped one
				floor.Store(-10)
				if _, err := r.Operator().Retry(t.Context(), projection.Ref{Name: "a", Version: 2}); err != nil {
					t.Error(err)
				}
				f.equal("the next version", want, log.streams(f, k, "a"))
				f.exec(`update a_v2 set numbers = 'wrong'`)
				if err := r.Operator().RebuildKey(t.Context(), live, "counter-y"); err != nil {
					t.Error(err)
				}
				f.equal("a key", "-1 3 8", log.streams(f, k, "a")["counter-y"])
			}
			if k.name != "table" {
				return // after a reset, a handler would write the events a second time
			}
			if err := r.Operator().Reset(t.Context(), live, 0); err != nil {
				t.Fatal(err)
			}
			f.wait(r, log.put(t, "z", 9))
			want["counter-z"] = "-2 4 9"
			f.equal("after a reset", want, log.streams(f, k, "a"))
		})
	}
}

// TestLogElsewhereFromNow: with FromNow a projection begins at the end of a log outside the database, and so does a
// subscription of one process.
func TestLogElsewhereFromNow(t *testing.T) {
	t.Parallel()
	f, log := setup(t), newElsewhere()
	log.put(t, "x", 1, 2)
	r, _ := f.start(quiet, log, newHandler(f, "a", projection.Options{FromNow: true}, noHook))
	var mu sync.Mutex
	var heard []int
	unsubscribe, err := r.Subscribe(t.Context(), projection.Effect(counting, func(_ context.Context, e eventstore.Event[counted]) error {
		mu.Lock()
		defer mu.Unlock()
		heard = append(heard, e.Data.N)
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer unsubscribe()
	f.until("the projection is registered", func() bool { return f.statusOf(r, "a").Checkpoint == 2 })
	f.wait(r, log.put(t, "x", 3, 4))
	f.equal("handled", []eventstore.Position{3, 4}, f.model("a"))
	f.until("the subscription has got both events", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return slices.Equal(heard, []int{3, 4})
	})
}

// TestLogExchanged: checkpoints belong to one log. Run over another log returns an error. When the log has gone back, a
// process notices this even if it has never read the log before.
func TestLogExchanged(t *testing.T) {
	t.Parallel()
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			f, log := setup(t), newElsewhere()
			r, stop := f.start(quiet, log, k.make(f, "a", projection.Options{}, noHook))
			f.wait(r, log.put(t, "x", 1, 2, 3))
			stop()
			id, _ := log.Identity(t.Context())

			var changed *projection.ChangedError
			exchanged := newElsewhere()
			other, _ := exchanged.Identity(t.Context())
			err := f.runErr(exchanged, k.make(f, "a", projection.Options{}, noHook))
			if !errors.As(err, &changed) || !strings.Contains(err.Error(), id.String()) || !strings.Contains(err.Error(), other.String()) {
				t.Errorf("over another log: %v; want a ChangedError with both identities", err)
			}
			if err := f.runErr(f.store, k.make(f, "a", projection.Options{}, noHook)); !errors.As(err, &changed) {
				t.Errorf("over the store of the database: %v; want a ChangedError", err)
			}

			exchanged.id = id // an older backup of the log, to which other events were appended
			exchanged.put(t, "x", 1, 2, 4, 5)
			r, stop = f.start(quiet, exchanged, k.make(f, "a", projection.Options{}, noHook))
			f.until("the status says that the log went back", func() bool {
				return strings.Contains(f.statusOf(r, "a").Partitions[0].Error, "went back")
			})
			if at := f.statusOf(r, "a").Checkpoint; at != 3 {
				t.Errorf("the checkpoint is %d, want it to stay at 3", at)
			}
			stop()

			shorter := newElsewhere()
			shorter.id = id
			shorter.put(t, "x", 1)
			r, _ = f.start(quiet, shorter, k.make(f, "a", projection.Options{}, noHook))
			f.until("the projection has stopped", func() bool {
				return strings.Contains(f.statusOf(r, "a").Reason, "the log ends at 1")
			})
		})
	}
}
