package projection_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// heard collects the positions of the events that effects were called for.
type heard struct {
	mu        sync.Mutex
	positions []eventstore.Position
	changed   chan struct{}
}

func newHeard() *heard { return &heard{changed: make(chan struct{}, 1)} }

func (h *heard) add(position eventstore.Position) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.positions = append(h.positions, position)
	select {
	case h.changed <- struct{}{}:
	default:
	}
}

func (h *heard) all() []eventstore.Position {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.positions)
}

// until waits until the effect was called for the event at a position.
func (h *heard) until(t *testing.T, position eventstore.Position) {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for !slices.Contains(h.all(), position) {
		select {
		case <-h.changed:
		case <-timeout:
			t.Fatalf("the effect was not called for position %d within 20 s, only for %v", position, h.all())
		}
	}
}

func (h *heard) effect(_ context.Context, e eventstore.Event[counted]) error {
	h.add(e.Position)
	return nil
}

// TestSubscription: the effect is called for every event in order. After a restart it is not called again.
func TestSubscription(t *testing.T) {
	t.Parallel()
	f := setup(t)
	h := newHeard()
	mails := func() *projection.Projection {
		return projection.NewSubscription("mails", nil, projection.Effect(counting, h.effect))
	}
	r, stop := f.start(quiet, f.store, mails())
	f.wait(r, f.append(counting, 20))
	stop()
	last := f.append(counting, 5)
	r, _ = f.start(quiet, f.store, mails())
	f.wait(r, last)
	if diff := cmp.Diff(f.log("counted"), h.all()); diff != "" {
		t.Errorf("effects (-log +heard):\n%s", diff)
	}
}

// TestSubscriptionFails: when an effect fails, the effects before it are not repeated.
func TestSubscriptionFails(t *testing.T) {
	t.Parallel()
	f := setup(t)
	h := newHeard()
	failures := make(map[eventstore.Position]int)
	r, _ := f.start(quiet, f.store, projection.NewSubscription("mails", nil, projection.Effect(counting, func(ctx context.Context, e eventstore.Event[counted]) error {
		if failures[e.Position]++; failures[e.Position] < 3 && e.Data.N%3 == 0 {
			return errors.New("no answer")
		}
		return h.effect(ctx, e)
	})))
	f.wait(r, f.append(counting, 30))
	if diff := cmp.Diff(f.log("counted"), h.all()); diff != "" {
		t.Errorf("effects (-log +heard):\n%s", diff)
	}
}

// TestOnce: the checkpoint of each batch cannot be saved the first time, so each batch is handled again. Effects in the
// same database happen once.
func TestOnce(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.exec(`create table mails (position bigint, effect text)`)
	f.exec(`create sequence saves`)
	f.exec(`create function refuse_every_other() returns trigger language plpgsql as $$
		begin
			if nextval('public.saves') % 2 = 1 then
				raise 'not now';
			end if;
			return new;
		end $$`)
	f.exec(`create trigger refuse_every_other before update of checkpoint on tidemark.projection_partitions for each row execute function refuse_every_other()`)
	h := newHeard()
	config := *quiet
	config.BatchSize = 4
	r, _ := f.start(&config, f.store, projection.NewSubscription("mails", nil, projection.Effect(counting, func(ctx context.Context, e eventstore.Event[counted]) error {
		h.add(e.Position)
		return pgx.BeginFunc(ctx, f.pool, func(tx pgx.Tx) error {
			for _, effect := range []string{"welcome", "invoice"} {
				first, err := projection.Once(ctx, tx, effect)
				if err != nil {
					return err
				}
				if !first {
					continue
				}
				if _, err := tx.Exec(ctx, `insert into mails values ($1, $2)`, e.Position, effect); err != nil {
					return err
				}
			}
			return nil
		})
	})))
	f.wait(r, f.append(counting, 20))
	rows, _ := f.pool.Query(t.Context(), `select position from mails where effect = 'welcome' order by position`)
	sent, err := pgx.CollectRows(rows, pgx.RowTo[eventstore.Position])
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(f.log("counted"), sent); diff != "" {
		t.Errorf("mails (-log +sent):\n%s", diff)
	}
	if n := len(h.all()); n <= 20 {
		t.Errorf("the effect was called %d times for 20 events: no event was handled again", n)
	}
	if _, err := projection.Once(t.Context(), nil, "x"); !errors.Is(err, projection.ErrNoEvent) {
		t.Errorf("outside of a handler: %v, want ErrNoEvent", err)
	}
}

// TestConsumerGroup: processes that run a subscription of one name share its events.
func TestConsumerGroup(t *testing.T) {
	t.Parallel()
	f := setup(t)
	var heards [2]*heard
	var runners [2]*projection.Runner
	for n := range runners {
		heards[n] = newHeard()
		runners[n], _ = f.start(quiet, f.store, projection.NewSubscription("mails", &projection.Options{Partitions: 8},
			projection.Effect(counting, heards[n].effect)))
	}
	f.awaitShares(runners[0], 4, 4)
	var last eventstore.Position
	for n := range 40 {
		last = f.appendTo(fmt.Sprint("k", n), 2)
	}
	f.wait(runners[0], last)
	first, second := heards[0].all(), heards[1].all()
	all := append(slices.Clone(first), second...)
	slices.Sort(all)
	if diff := cmp.Diff(f.log("counted"), all); diff != "" {
		t.Errorf("effects (-log +heard):\n%s", diff)
	}
	if len(first) == 0 || len(second) == 0 {
		t.Errorf("one process got %d events and the other %d, want both to get some", len(first), len(second))
	}
}

// appendTo stores n events in one stream.
func (f *fixture) appendTo(key string, n int) eventstore.Position {
	f.Helper()
	var drafts []eventstore.Draft
	for i := range n {
		draft, err := counting.Encode(counted{i})
		if err != nil {
			f.Fatal(err)
		}
		drafts = append(drafts, draft)
	}
	receipt, err := f.store.Append(f.Context(), eventstore.StreamID{Category: "counter", Key: key}, eventstore.Any, drafts...)
	if err != nil {
		f.Fatal(err)
	}
	return receipt.Position
}

// TestFromNow: a new subscription with FromNow begins at the end of the log. After a restart it continues where it was.
func TestFromNow(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.append(counting, 5)
	h := newHeard()
	mails := func() *projection.Projection {
		return projection.NewSubscription("mails", &projection.Options{FromNow: true}, projection.Effect(counting, h.effect))
	}
	r, stop := f.start(quiet, f.store, mails())
	f.wait(r, 1)
	f.wait(r, f.append(counting, 3))
	stop()
	last := f.append(counting, 2) // while no process runs it
	r, _ = f.start(quiet, f.store, mails())
	f.wait(r, last)
	if diff := cmp.Diff(f.log("counted")[5:], h.all()); diff != "" {
		t.Errorf("effects (-log +heard):\n%s", diff)
	}
}

// TestSubscribe: effects given to Subscribe are called for the events that are stored from now on, until unsubscribe is
// called.
func TestSubscribe(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.append(counting, 3)
	r, err := projection.NewRunner(f.pool, f.store, quiet)
	if err != nil {
		t.Fatal(err)
	}
	typed, all, failing := newHeard(), newHeard(), newHeard()
	subscribe := func(sources ...projection.EffectSource) (unsubscribe func()) {
		unsubscribe, err := r.Subscribe(t.Context(), sources...)
		if err != nil {
			t.Fatal(err)
		}
		return unsubscribe
	}
	subscribe(projection.Effect(counting, typed.effect), projection.Effect(other, func(context.Context, eventstore.Event[counted]) error { return nil }))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	first := f.append(counting, 2)
	typed.until(t, first)

	unsubscribe := subscribe(projection.EffectAll(func(_ context.Context, e eventstore.Raw) error {
		all.add(e.Position)
		return nil
	}))
	subscribe(projection.Effect(counting, func(ctx context.Context, e eventstore.Event[counted]) error {
		_ = failing.effect(ctx, e)
		panic("no")
	}))
	f.append(counting, 2)
	last := f.append(other, 2)
	all.until(t, last)
	failing.until(t, last-2)
	unsubscribe()
	unsubscribe() // a second call does nothing
	f.append(other, 1)
	end := f.append(counting, 1)
	typed.until(t, end)
	failing.until(t, end)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	log := f.log("counted")
	if diff := cmp.Diff(log[3:], typed.all()); diff != "" {
		t.Errorf("typed (-log +heard):\n%s", diff)
	}
	if diff := cmp.Diff(log[5:], failing.all()); diff != "" {
		t.Errorf("failing (-log +heard):\n%s", diff)
	}
	if diff := cmp.Diff(append(log[5:7:7], f.log("other")[:2]...), all.all()); diff != "" {
		t.Errorf("catch-all (-log +heard):\n%s", diff)
	}
}

// TestSubscriptionAll: NewSubscription can have EffectAll too.
func TestSubscriptionAll(t *testing.T) {
	t.Parallel()
	f := setup(t)
	h := newHeard()
	r, _ := f.start(quiet, f.store, record("a", nil), projection.NewSubscription("log", nil, projection.EffectAll(func(_ context.Context, e eventstore.Raw) error {
		h.add(e.Position)
		return nil
	})))
	f.append(counting, 3)
	f.wait(r, f.append(other, 3))
	want := append(f.log("counted"), f.log("other")...)
	if diff := cmp.Diff(want, h.all()); diff != "" {
		t.Errorf("effects (-log +heard):\n%s", diff)
	}
	f.checkModel("a")
}

func TestNewSubscriptionPanics(t *testing.T) {
	t.Parallel()
	effect := projection.Effect(counting, func(context.Context, eventstore.Event[counted]) error { return nil })
	every := projection.EffectAll(func(context.Context, eventstore.Raw) error { return nil })
	for name, make := range map[string]func(){
		"version":     func() { projection.NewSubscription("a", &projection.Options{Version: 2}, effect) },
		"all beside":  func() { projection.NewSubscription("a", nil, effect, every) },
		"nil":         func() { projection.Effect[counted](counting, nil) },
		"nil for all": func() { projection.EffectAll(nil) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			make()
		}()
	}
}
