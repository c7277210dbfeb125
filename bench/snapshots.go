package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidemark-es/tidemark/aggregate"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/snapshot"
)

const (
	// tailEvents is how many events follow a snapshot when loading is measured: the average with the default
	// policy.
	tailEvents = 50
	// perSnapshot is after how many events the default policy takes a snapshot.
	perSnapshot = 100

	updaters = 64
)

// savings is an aggregate whose snapshot has about 500 bytes.
type savings struct {
	Owner   string
	Events  int
	Balance int64
	Holds   map[string]int64 // by the day of the month
}

// days are made once, so that Apply is as fast as in a real aggregate.
var days = func() (days [24]string) {
	for i := range days {
		days[i] = fmt.Sprintf("day-%02d", i+1)
	}
	return days
}()

func (s *savings) Apply(e deposited) {
	if s.Holds == nil {
		s.Holds = make(map[string]int64, len(days))
	}
	s.Owner = e.Account
	s.Holds[days[s.Events%len(days)]] = e.Amount
	s.Events++
	s.Balance += e.Amount
}

var savingsAccounts = aggregate.Define[savings]("account", depositing)

type repository = aggregate.Repository[savings, deposited]

func (b *bench) snapshots(ctx context.Context) error {
	if err := b.database(ctx, func(db *database) error { return b.loading(ctx, db) }); err != nil {
		return err
	}
	return b.database(ctx, func(db *database) error { return b.updating(ctx, db) })
}

// length holds the measurements of an aggregate of one length.
type length struct {
	events        int
	stream        eventstore.StreamID
	without, with []time.Duration // of the loads
}

func (b *bench) loading(ctx context.Context, db *database) error {
	b.section("Loading with snapshots", fmt.Sprintf("The median time to load an aggregate from all its events, and from a snapshot and the %d events after it, "+
		"which is the average with the default policy. The last column is the time with a snapshot, divided by that at %d events.", tailEvents, 2*tailEvents),
		"aggregate", "without", "with", "times faster", "to the first")
	store, err := snapshot.NewPostgres(db.pool, &snapshot.PostgresConfig{Schema: schema})
	if err != nil {
		return err
	}
	var lengths []*length
	for n := 2 * tailEvents; n <= min(b.max, 1_000_000); n *= 10 {
		l := &length{events: n, stream: newStream()}
		if err := db.extendTwice(ctx, store, l.stream, n-tailEvents, tailEvents); err != nil {
			return fmt.Errorf("%d events: %w", n, err)
		}
		lengths = append(lengths, l)
	}
	if err := db.settle(ctx); err != nil {
		return err
	}
	if err := b.loadAll(ctx, db, store, lengths); err != nil {
		return err
	}
	return b.compareLengths(lengths)
}

// compareLengths adds the rows and the plot.
func (b *bench) compareLengths(lengths []*length) error {
	plot := loadPlot()
	var without, with []point
	for _, l := range lengths {
		x, slow, fast := float64(l.events), percentile(l.without, 50), percentile(l.with, 50)
		without, with = append(without, point{x, inMillis(slow)}), append(with, point{x, inMillis(fast)})
		b.row(whole(l.events), millis(slow), millis(fast), ratio(inMillis(slow)/inMillis(fast)), ratio(inMillis(fast)/with[0].y))
	}
	plot.line("from its events", without...)
	plot.line("from a snapshot and the events after it", with...)
	first, last := with[0], with[len(with)-1]
	b.target(fmt.Sprintf("load with snapshots, %s to %s events", whole(int(first.x)), whole(int(last.x))), first.y/last.y, 0.5)
	plot.mark(point{last.x, first.y / 0.5})
	return b.plot("load.svg", plot)
}

// extendTwice appends events to a stream, takes a snapshot, and appends some more.
func (db *database) extendTwice(ctx context.Context, store snapshot.Store, stream eventstore.StreamID, before, after int) error {
	if err := db.extend(ctx, stream, before); err != nil {
		return err
	}
	snapshots := made(snapshot.NewSnapshotter(store, &snapshot.Config{Policy: snapshot.Every(1), Sync: true}))
	defer snapshots.Close()
	if _, err := made(aggregate.NewRepository(db.Store, savingsAccounts, &aggregate.Config{Snapshots: snapshots})).Load(ctx, stream.Key); err != nil {
		return err
	}
	if stats := snapshots.Stats(); stats.Saved != 1 {
		return fmt.Errorf("no snapshot was saved: %+v", stats)
	}
	return db.extend(ctx, stream, after)
}

// extend appends the given number of events to a stream.
func (db *database) extend(ctx context.Context, stream eventstore.StreamID, events int) error {
	const atOnce = 1000 // in a transaction
	for left := events; left > 0; {
		n, err := db.append(min(left, atOnce))(ctx, stream, eventstore.Any)
		if err != nil {
			return err
		}
		left -= n
	}
	return nil
}

// loadAll loads aggregates of all lengths in turns, with and without snapshots.
func (b *bench) loadAll(ctx context.Context, db *database, store snapshot.Store, lengths []*length) error {
	snapshots := made(snapshot.NewSnapshotter(store, &snapshot.Config{Policy: snapshot.Never()})) // a snapshot would leave no tail
	defer snapshots.Close()
	with := made(aggregate.NewRepository(db.Store, savingsAccounts, &aggregate.Config{Snapshots: snapshots}))
	without := made(aggregate.NewRepository(db.Store, savingsAccounts, nil))
	for turn, start := 0, time.Now(); turn < 3 || time.Since(start) < b.duration(); turn++ {
		for _, l := range lengths {
			if err := errors.Join(b.loadSome(ctx, without, l, &l.without), b.loadSome(ctx, with, l, &l.with)); err != nil {
				return err
			}
		}
	}
	loads := int64(0)
	for _, l := range lengths {
		loads += int64(len(l.with))
	}
	if stats := snapshots.Stats(); stats != (snapshot.Stats{Used: loads}) {
		return fmt.Errorf("%d loads did not all begin with a snapshot: %+v", loads, stats)
	}
	return nil
}

// loadSome loads an aggregate a hundred times, or fewer if that takes longer than a tenth of a measurement.
func (b *bench) loadSome(ctx context.Context, r *repository, l *length, took *[]time.Duration) error {
	for n, start := 0, time.Now(); n == 0 || n < 100 && time.Since(start) < b.duration()/10; n++ {
		begun := time.Now()
		loaded, err := r.Load(ctx, l.stream.Key)
		if err != nil {
			return err
		}
		*took = append(*took, time.Since(begun))
		if err := expect("folded", loaded.State.Events, l.events, nil); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) updating(ctx context.Context, db *database) error {
	history := b.either(1000, 100)
	b.section("Updating with snapshots", fmt.Sprintf("Updates per second of %d writers, each with an aggregate of its own and one event per update. "+
		"The aggregates have %s events or some more at first. The reference has less help. An aggregate gets a snapshot every %d events; the time includes saving the last ones. "+
		"Loads and snapshots are counted per 100 updates with more help.", updaters, whole(history), perSnapshot),
		"updates with", "against", "updates/s", "against/s", "ratio", "of turns", "loads", "snapshots")
	for _, kind := range []struct {
		measured, reference help
		want                float64 // the target, 0 for none
	}{
		{help{cache: true, snapshots: true}, help{cache: true}, 0.95},
		{help{cache: true, snapshots: true}, help{snapshots: true}, 0},
		{help{snapshots: true}, help{}, 0},
	} {
		u, c, err := b.help(ctx, db, history, kind.reference, kind.measured)
		if err != nil {
			return fmt.Errorf("%s against %s: %w", kind.measured, kind.reference, err)
		}
		b.row(kind.measured.String(), kind.reference.String(), rate(c.measured), rate(c.reference), ratio(c.ratio()), c.spread(),
			u.perHundred(u.loads.Load()), u.perHundred(u.snapshots.Stats().Saved))
		if kind.want > 0 {
			b.target(fmt.Sprintf("updates with %s to %s", kind.measured, kind.reference), c.ratio(), kind.want)
		}
	}
	return nil
}

// help says what saves a repository from reading all events of an aggregate.
type help struct{ cache, snapshots bool }

func (h help) String() string {
	switch {
	case h.cache && h.snapshots:
		return "cache, snapshots"
	case h.cache:
		return "cache"
	case h.snapshots:
		return "snapshots"
	}
	return "neither"
}

// help compares updates with two kinds of help. It also returns the updater that was measured.
func (b *bench) help(ctx context.Context, db *database, history int, reference, measured help) (*updater, comparison, error) {
	r, err := db.updater(ctx, history, reference, nil)
	if err != nil {
		return nil, comparison{}, err
	}
	defer r.snapshots.Close()
	m, err := db.updater(ctx, history, measured, nil)
	if err != nil {
		return nil, comparison{}, err
	}
	defer m.snapshots.Close()
	if err := db.settle(ctx); err != nil {
		return nil, comparison{}, err
	}
	c, err := compare(ctx, b.duration(), r.update, m.update)
	return m, c, errors.Join(err, r.check(), m.check())
}

// updater updates aggregates.
type updater struct {
	*database
	help
	repository *repository
	snapshots  *snapshot.Snapshotter // used only if help.snapshots is set
	streams    []eventstore.StreamID
	history    int // how many events each aggregate has in its first snapshot

	updates, loads atomic.Int64
	due            atomic.Int64 // how many snapshots the policy has asked for
}

// updater makes aggregates that have a snapshot after their history. Each then gets a different number of events,
// below perSnapshot, so that their next snapshots do not become due at once.
func (db *database) updater(ctx context.Context, history int, help help, config *snapshot.Config) (*updater, error) {
	store, err := snapshot.NewPostgres(db.pool, &snapshot.PostgresConfig{Schema: schema})
	if err != nil {
		return nil, err
	}
	u := &updater{database: db, help: help, snapshots: made(snapshot.NewSnapshotter(store, config)), streams: newStreams(updaters), history: history}
	var c aggregate.Config
	if help.snapshots {
		c.Snapshots = u.snapshots
	}
	if help.cache {
		c.CacheSize = updaters
	}
	u.repository = made(aggregate.NewRepository(u, savingsAccounts, &c))

	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4)
	for i, stream := range u.streams {
		group.Go(func() error {
			return db.extendTwice(ctx, store, stream, history, i*perSnapshot/updaters)
		})
	}
	return u, group.Wait()
}

// Read reads events for the repository, and counts the calls.
func (u *updater) Read(ctx context.Context, stream eventstore.StreamID, options eventstore.ReadOptions) iter.Seq2[eventstore.Raw, error] {
	u.loads.Add(1)
	return u.Store.Read(ctx, stream, options)
}

// update lets each writer update its aggregate, and waits until the snapshots are saved.
func (u *updater) update(ctx context.Context, d time.Duration) (tally, error) {
	start := time.Now()
	t, err := u.on(u.streams, u.one)(ctx, d)
	u.snapshots.Flush()
	t.took = time.Since(start)
	return t, err
}

// one updates the aggregate of a stream once.
func (u *updater) one(ctx context.Context, stream eventstore.StreamID, _ eventstore.Version) (int, error) {
	receipt, err := u.repository.Update(ctx, stream.Key, func(*savings) ([]deposited, error) { return []deposited{u.event}, nil })
	if err != nil {
		return 0, err
	}
	u.appended.Add(1)
	u.updates.Add(1)
	if (int(receipt.Version)-u.history)%perSnapshot == 0 {
		u.due.Add(1)
	}
	return 1, nil
}

// check returns an error if fewer than half of the snapshots that the policy asks for were saved, or if one failed.
func (u *updater) check() error {
	want := int64(0)
	if u.help.snapshots {
		want = u.due.Load() / 2
	}
	stats := u.snapshots.Stats()
	if stats.Saved < want || stats.Failed+stats.Bad+stats.Dropped > 0 {
		return fmt.Errorf("after %d updates there are too few snapshots, want %d at least: %+v", u.updates.Load(), want, stats)
	}
	return nil
}

func (u *updater) perHundred(n int64) string {
	return ratio(float64(n) / float64(u.updates.Load()) * 100)
}

// made returns the value of a constructor, and panics if the constructor has returned an error.
func made[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}
