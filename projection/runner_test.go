package projection_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
	"github.com/tidemark-es/tidemark/projection"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

type counted struct{ N int }

var (
	counting = codec.New(codec.Of("counted", func(e counted) counted { return e }))
	other    = codec.New(codec.Of("other", func(e counted) counted { return e }))
	quiet    = &projection.Config{Logger: slog.New(slog.DiscardHandler), MaxBackoff: time.Millisecond}

	quietOperator = &projection.OperatorConfig{Logger: slog.New(slog.DiscardHandler)}
)

// nothing is a handler that does nothing.
func nothing(context.Context, pgx.Tx, eventstore.Event[counted]) error { return nil }

// alarm is a log handler that sends a value when a projection has failed.
type alarm chan struct{}

func (a alarm) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelError }
func (a alarm) WithAttrs([]slog.Attr) slog.Handler           { return a }
func (a alarm) WithGroup(string) slog.Handler                { return a }

func (a alarm) Handle(context.Context, slog.Record) error {
	select {
	case a <- struct{}{}:
	default:
	}
	return nil
}

// alarmed returns a configuration, and a channel that gets a value when a projection has failed.
func alarmed() (*projection.Config, <-chan struct{}) {
	failed := make(alarm, 1)
	config := *quiet
	config.Logger = slog.New(failed)
	return &config, failed
}

// fixture is a test with a database and a store. The database has the table model, into which handlers write a row for
// each event.
type fixture struct {
	*testing.T
	pool  *pgxpool.Pool
	store *eventstore.Store
}

func setup(t *testing.T) *fixture {
	f := &fixture{T: t, pool: pgtest.Pool(t)}
	var err error
	if f.store, err = eventstore.New(f.pool, nil); err != nil {
		t.Fatal(err)
	}
	f.exec(`create table model (name text, position bigint, n int, written bigserial)`)
	return f
}

func (f *fixture) exec(sql string, args ...any) {
	f.Helper()
	if _, err := f.pool.Exec(f.Context(), sql, args...); err != nil {
		f.Fatalf("%s: %v", sql, err)
	}
}

// append stores n events of the codec's type, and returns the position of the last event.
func (f *fixture) append(counting *codec.Codec[counted], n int) (last eventstore.Position) {
	f.Helper()
	var drafts []eventstore.Draft
	for i := range n {
		draft, err := counting.Encode(counted{i})
		if err != nil {
			f.Fatal(err)
		}
		drafts = append(drafts, draft)
	}
	receipt, err := f.store.Append(f.Context(), eventstore.StreamID{Category: "counter", Key: "a"}, eventstore.Any, drafts...)
	if err != nil {
		f.Fatal(err)
	}
	return receipt.Position
}

// model returns the positions in the read model in the order in which they were written.
func (f *fixture) model(name string) []eventstore.Position {
	f.Helper()
	rows, _ := f.pool.Query(f.Context(), `select position from model where name = $1 order by written`, name)
	positions, err := pgx.CollectRows(rows, pgx.RowTo[eventstore.Position])
	if err != nil {
		f.Fatal(err)
	}
	return positions
}

// log returns the positions of the events of a type.
func (f *fixture) log(eventType string) (positions []eventstore.Position) {
	f.Helper()
	for event, err := range f.store.ReadAll(f.Context(), 0, eventstore.Filter{Types: []string{eventType}}) {
		if err != nil {
			f.Fatal(err)
		}
		positions = append(positions, event.Position)
	}
	return positions
}

func (f *fixture) checkModel(name string) {
	f.Helper()
	if diff := cmp.Diff(f.log("counted"), f.model(name)); diff != "" {
		f.Errorf("read model %s differs from the log (-log +model):\n%s", name, diff)
	}
}

// record returns a projection that writes each event into the model and then calls hook.
func record(name string, hook func(context.Context, pgx.Tx, eventstore.Event[counted]) error) *projection.Projection {
	return projection.New(name, nil, projection.On(counting, func(ctx context.Context, tx pgx.Tx, event eventstore.Event[counted]) error {
		if _, err := tx.Exec(ctx, `insert into model values ($1, $2, $3)`, name, event.Position, event.Data.N); err != nil {
			return err
		}
		if hook != nil {
			return hook(ctx, tx, event)
		}
		return nil
	}))
}

// start runs the projections until the test ends or stop is called.
func (f *fixture) start(config *projection.Config, log projection.Log, projections ...*projection.Projection) (r *projection.Runner, stop func()) {
	f.Helper()
	r, err := projection.NewRunner(f.pool, log, config, projections...)
	if err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			f.Errorf("Run: %v, want nil when stopped", err)
		}
	})
	f.Cleanup(stop)
	return r, stop
}

func (f *fixture) wait(r *projection.Runner, position eventstore.Position, names ...string) {
	f.Helper()
	ctx, cancel := context.WithTimeout(f.Context(), 30*time.Second)
	defer cancel()
	if err := r.Wait(ctx, position, names...); err != nil {
		f.Fatal(err)
	}
}

func TestRestart(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r, stop := f.start(quiet, f.store, record("a", nil))
	f.wait(r, f.append(counting, 5))
	stop()
	last := f.append(counting, 5)
	r, _ = f.start(quiet, f.store, record("a", nil), record("new", nil))
	f.wait(r, last)
	f.checkModel("a")
	f.checkModel("new")
}

// TestExactlyOnce lets a projection fail in several ways, at every event, after it has written to the read model. No
// event is there twice, and no event is missing.
func TestExactlyOnce(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(context.Context, pgx.Tx) error{
		"error":     func(context.Context, pgx.Tx) error { return errors.New("no") },
		"transient": func(context.Context, pgx.Tx) error { return projection.Transient(errors.New("not now")) },
		"killed backend": func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `select pg_terminate_backend(pg_backend_pid())`)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			failed := make(map[eventstore.Position]bool)
			config := *quiet
			config.BatchSize = 3
			r, _ := f.start(&config, f.store, record("a", func(ctx context.Context, tx pgx.Tx, event eventstore.Event[counted]) error {
				if failed[event.Position] {
					return nil
				}
				failed[event.Position] = true
				return fail(ctx, tx)
			}))
			f.wait(r, f.append(counting, 10))
			f.checkModel("a")
			if len(failed) != 10 {
				t.Errorf("it failed %d times, want 10", len(failed))
			}
		})
	}
}

// TestCheckpointIsWithTheReadModel: when the checkpoint cannot be saved, the writes of the batch are rolled back.
func TestCheckpointIsWithTheReadModel(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.exec(`create sequence saves`)
	f.exec(`create function refuse_first() returns trigger language plpgsql as $$
		begin
			if nextval('public.saves') <= 3 then
				raise 'not now';
			end if;
			return new;
		end $$`)
	f.exec(`create trigger refuse_first before update of checkpoint on tidemark.projection_partitions for each row execute function refuse_first()`)
	config := *quiet
	config.BatchSize = 2
	r, _ := f.start(&config, f.store, record("a", nil))
	f.wait(r, f.append(counting, 9))
	f.checkModel("a")
}

// TestTwoProcesses lets two runners run the same projection, as two processes would.
func TestTwoProcesses(t *testing.T) {
	t.Parallel()
	f := setup(t)
	config := *quiet
	config.BatchSize = 2
	var worked [2]atomic.Int64
	var runners [2]*projection.Runner
	for i := range runners {
		runners[i], _ = f.start(&config, f.store, record("a", func(context.Context, pgx.Tx, eventstore.Event[counted]) error {
			worked[i].Add(1)
			return nil
		}))
	}
	var last eventstore.Position
	for range 40 {
		last = f.append(counting, 3)
	}
	for _, r := range runners {
		f.wait(r, last) // each runner learns of the other's progress
	}
	f.checkModel("a")
	t.Logf("handled by the first %d, by the second %d events", worked[0].Load(), worked[1].Load())
}

// countingLog counts the events that were read from the log.
type countingLog struct {
	*eventstore.Store
	events atomic.Int64
}

func (l *countingLog) Next(ctx context.Context, after eventstore.Mark, filter eventstore.Filter, limit int) (eventstore.Page, error) {
	page, err := l.Store.Next(ctx, after, filter, limit)
	l.events.Add(int64(len(page.Events)))
	return page, err
}

func TestSharedReading(t *testing.T) {
	t.Parallel()
	f := setup(t)
	const events, names = 200, 5
	last := f.append(counting, events)
	log := &countingLog{Store: f.store}
	var projections []*projection.Projection
	for i := range names {
		projections = append(projections, record(fmt.Sprint("p", i), nil))
	}
	config := *quiet
	config.BatchSize = 50
	r, _ := f.start(&config, log, projections...)
	f.wait(r, last)
	for i := range names {
		f.checkModel(fmt.Sprint("p", i))
	}
	if n := log.events.Load(); n != events {
		t.Errorf("%d projections read %d events, want the log once: %d", names, n, events)
	}
}

func TestFailureStopsOnlyItself(t *testing.T) {
	t.Parallel()
	f := setup(t)
	broken := errors.New("broken")
	var fixed atomic.Bool
	config, failing := alarmed()
	r, _ := f.start(config, f.store, record("good", nil), record("bad", func(context.Context, pgx.Tx, eventstore.Event[counted]) error {
		if fixed.Load() {
			return nil
		}
		return projection.Transient(broken)
	}))
	last := f.append(counting, 3)
	f.wait(r, last, "good")
	f.checkModel("good")

	ctx, cancel := context.WithCancelCause(t.Context())
	go func() { // ends the Wait once the projection has failed
		<-failing
		cancel(context.DeadlineExceeded)
	}()
	err := r.Wait(ctx, last)
	var failed *projection.HandlerError
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, broken) || !errors.As(err, &failed) {
		t.Fatalf("wait: %v, want the deadline and the reason", err)
	}
	full, err := r.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	status := full.Projections[0]
	if status.Name != "bad" || status.Checkpoint != 0 || status.Partitions[0].FailingSince.IsZero() || failed.Projection != "bad" || failed.Type != "counted" || failed.Position == 0 {
		t.Errorf("status %+v, error %+v", status, failed)
	}
	fixed.Store(true)
	f.wait(r, last)
	f.checkModel("bad")
}

// TestCheckpointPassesOtherEvents: the checkpoint advances over events of other types, so Wait does not wait for them.
func TestCheckpointPassesOtherEvents(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r, stop := f.start(quiet, f.store, record("a", nil))
	f.wait(r, f.append(counting, 2))
	last := f.append(other, 2)
	f.wait(r, last)
	stop()
	var stored eventstore.Position
	if err := f.pool.QueryRow(t.Context(), `select checkpoint from tidemark.projection_partitions where projection = 'a'`).Scan(&stored); err != nil || stored != last {
		t.Errorf("stored checkpoint %d, %v; want %d", stored, err, last)
	}
	f.checkModel("a")
}

// TestFullLastPage: Wait returns and the rows are written when the log ends with a full page.
func TestFullLastPage(t *testing.T) {
	t.Parallel()
	f := setup(t)
	config := *quiet
	config.BatchSize = 5
	r, _ := f.start(&config, f.store, record("a", nil), sums("rows", projection.Options{}, byStream))
	for range 3 {
		f.wait(r, f.append(counting, 5))
		var events int
		if err := f.pool.QueryRow(t.Context(), `select events from rows`).Scan(&events); err != nil || events != len(f.log("counted")) {
			t.Errorf("the table has %d events, %v", events, err)
		}
	}
	f.checkModel("a")
}

// TestSources: a projection has two sources with two codecs. It gets the events of both in the order of positions.
func TestSources(t *testing.T) {
	t.Parallel()
	f := setup(t)
	write := func(kind string) projection.Handler[counted] {
		return func(ctx context.Context, tx pgx.Tx, event eventstore.Event[counted]) error {
			if event.Type != kind {
				return fmt.Errorf("the handler of %q got %q", kind, event.Type)
			}
			_, err := tx.Exec(ctx, `insert into model values ('both', $1, $2)`, event.Position, event.Data.N)
			return err
		}
	}
	r, _ := f.start(quiet, f.store, projection.New("both", nil, projection.On(counting, write("counted")), projection.On(other, write("other"))))
	var last eventstore.Position
	for range 5 {
		f.append(counting, 2)
		last = f.append(other, 1)
	}
	f.wait(r, last)
	got, want := f.model("both"), append(f.log("counted"), f.log("other")...)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("read model differs from the log (-log +model):\n%s", diff)
	}
}
