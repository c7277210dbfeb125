package projection

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/isnil"
	"github.com/tidemark-es/tidemark/internal/pgpool"
	"github.com/tidemark-es/tidemark/internal/pgschema"
	"github.com/tidemark-es/tidemark/projection/internal/catalog"
	"github.com/tidemark-es/tidemark/projection/internal/feed"
)

// Config adjusts a [Runner]. Nil and the zero value are the defaults.
type Config struct {
	// Schema is the Postgres schema that the store was migrated into; empty means "tidemark".
	Schema string
	// BatchSize is how many events of the log are read at once; 0 means 1000. A transaction covers at most this many
	// events. The exception is a table with a backlog: its rows are written after a second or more, or when there are
	// too many to keep in memory.
	BatchSize int
	// Concurrency bounds how many batches run side by side, each on its own connection of the pool. 0 means half of the
	// pool's maximum number of connections.
	Concurrency int
	// Lease is how long a process keeps its partitions at most after its last sign of life. It keeps them for at least
	// half of this time. It is also how long a handler may leave its transaction idle before Postgres ends the
	// transaction. 0 means 10 s.
	Lease time.Duration
	// MaxBackoff bounds the pause after a failure, which starts at 100 ms; 0 means 30 s.
	MaxBackoff time.Duration
	// A projection counts as stalled when it is more than StallLag events behind and has made no progress for
	// StallAfter. 0 means 0 events and one minute.
	StallLag   int64
	StallAfter time.Duration
	// Parked is how many parked events a projection may have before [Runner.Health] returns an error: dead letters and
	// the events that wait behind them. 0 means 100.
	Parked int
	// PollOnly leaves out the connection that listens for notifications. A pooler in transaction mode, such as
	// PgBouncer, does not pass notifications on. Without the connection, partitions that become free are found within a
	// second.
	PollOnly bool
	// Observer is called for batches, events, failures and switches; the zero value observes nothing.
	Observer Observer
	// Logger logs failures; nil means slog.Default().
	Logger *slog.Logger
}

// Runner runs projections in this process, and shares them with other processes that run the same projections.
// [Runner.Operator] returns the operations on these projections for operators.
type Runner struct {
	engine   *engine
	versions map[catalog.ID]*deployment
	names    map[string]*family
	started  sync.Once
	failure  atomic.Pointer[error] // the error that Run has returned
	bus      *bus
	monitor  *monitor
}

func (p *Projection) id() catalog.ID { return catalog.ID{Name: p.name, Version: p.options.Version} }

// engine is shared by everything that a runner runs.
type engine struct {
	most    int32 // the pool's maximum number of connections
	pool    *pgpool.Pool
	catalog *catalog.Catalog
	db      *database // with the same pool and catalog
	config  Config
	logger  *slog.Logger
	slots   chan struct{} // one for each running batch
	cached  int           // the number of rows that a partition of a table keeps in memory
	feed    *feed.Feed    // set by Run
	retries chan struct{} // one at a time: each retry needs a connection beside the one of its transaction
}

// maxRows bounds the rows of tables that a runner keeps in memory.
const maxRows = 128_000

// NewRunner returns a runner of the given projections over a log. Their read models and checkpoints are in the database
// of pool. A log with the method WithTx, such as an [eventstore.Store], must be in the same database and schema. No two
// projections may have the same name and version. To run, the pool must have room for two connections: a batch holds
// one while its handler, or the reader of the log, takes another.
func NewRunner(pool *pgxpool.Pool, log Log, config *Config, projections ...*Projection) (*Runner, error) {
	if pool == nil {
		return nil, errors.New("projection.NewRunner: the pool is nil: pass one that pgxpool.New returned without an error")
	}
	if isnil.Any(log) {
		return nil, errors.New("projection.NewRunner: the log is nil: pass the event store that eventstore.New returned without an error")
	}
	c := config.withDefaults(pool)
	schema, err := pgschema.Name(c.Schema)
	if err != nil {
		return nil, fmt.Errorf("projection.NewRunner: %w", err)
	}
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("projection.NewRunner: %w", err)
	}
	db := newDatabase(pool, log, schema, c)
	e := &engine{
		db: db, pool: db.pool, catalog: db.catalog, most: pool.Config().MaxConns, config: c, logger: c.Logger,
		slots: make(chan struct{}, c.Concurrency), retries: make(chan struct{}, 1),
	}
	r := &Runner{engine: e, versions: make(map[catalog.ID]*deployment), names: make(map[string]*family), monitor: newMonitor(db, c)}
	tables := 0
	for i, p := range projections {
		if p == nil || p.name == "" {
			return nil, fmt.Errorf("projection.NewRunner: projection %d of %d is nil or empty: pass one that New, NewTable or NewSubscription returned",
				i+1, len(projections))
		}
		if _, taken := r.versions[p.id()]; taken {
			return nil, fmt.Errorf("projection.NewRunner: two projections are named %q and have version %d",
				p.name, p.options.Version)
		}
		n := r.names[p.name]
		if n == nil {
			n = newFamily()
			r.names[p.name] = n
		}
		v := &deployment{projection: p, engine: e, owned: make(map[int]progress), failing: make(map[int]error), moved: n.moved}
		r.versions[p.id()] = v
		n.versions = append(n.versions, v)
		if p.table != nil {
			tables += p.options.Partitions
		}
	}
	e.cached = max(1000, maxRows/max(1, tables))
	r.bus = newBus(e)
	return r, nil
}

func (c *Config) withDefaults(pool *pgxpool.Pool) Config {
	var d Config
	if c != nil {
		d = *c
	}
	if d.BatchSize == 0 {
		d.BatchSize = 1000
	}
	if d.Concurrency == 0 {
		d.Concurrency = max(1, int(pool.Config().MaxConns)/2)
	}
	if d.Lease == 0 {
		d.Lease = 10 * time.Second
	}
	if d.MaxBackoff == 0 {
		d.MaxBackoff = 30 * time.Second
	}
	if d.StallAfter == 0 {
		d.StallAfter = time.Minute
	}
	if d.Parked == 0 {
		d.Parked = 100
	}
	if d.Logger == nil {
		d.Logger = slog.Default()
	}
	return d
}

// Run runs the projections until ctx is done, and then returns nil. A batch that is under way is then rolled back, and
// done again next time, here or in another process, which takes over at once.
//
// Run returns an error at once when the checkpoints cannot be read, for example [eventstore.ErrNotMigrated]. It also
// returns an error at once when no projection can run: the stored version of each does not fit (a [ChangedError] or a
// [TakenError]), or its tables cannot be made. If only some projections cannot run, the others run. The log,
// [Runner.Health] and a [WaitError] then say why. Later failures are tried again. Run may be called once.
func (r *Runner) Run(ctx context.Context) (err error) {
	first := false
	r.started.Do(func() { first = true })
	if !first {
		return errors.New("projection: a runner runs once: make another one")
	}
	defer func() {
		if err != nil {
			r.failure.Store(&err)
		}
	}()
	if err := r.prepare(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r.engine.feed = r.engine.db.log.feed(ctx, r.filter(), r.engine.config.BatchSize, r.engine.silence())
	var running sync.WaitGroup
	running.Go(func() { r.bus.run(ctx) })
	running.Go(func() { r.runLeases(ctx) })
	running.Go(func() { r.switchVersions(ctx) })
	running.Wait()
	r.engine.feed.Wait()
	return nil
}

// prepare creates or checks the stored state that projections need before they can run.
func (r *Runner) prepare(ctx context.Context) error {
	if r.engine.most < 2 {
		return fmt.Errorf("projection: the pool can have %d connection: give it 2 or more, because a batch holds one while its handler or the reader takes another", r.engine.most)
	}
	log, err := r.engine.db.checkLog(ctx)
	if err != nil {
		return err
	}
	var refused []error
	for _, id := range r.ids() {
		v := r.versions[id]
		err := v.registerPatiently(ctx, log)
		switch {
		case errors.As(err, new(*ChangedError)), errors.As(err, new(*TakenError)), errors.As(err, new(*ddlError)): // only this projection cannot run
			v.refused = err
			v.stepBack(err)
			refused = append(refused, err)
		case err != nil:
			return err
		}
	}
	if len(refused) == len(r.versions) {
		return errors.Join(refused...)
	}
	return nil
}

// maxChannel is how long the name of a channel can be, in bytes.
const maxChannel = 63

// channelOf returns the channel on which the runners of a schema tell each other about changed leases and operators'
// changes.
func channelOf(schema string) string {
	channel := schema + "_projections"
	if len(channel) > maxChannel {
		sum := sha256.Sum256([]byte(schema))
		channel = "projections_" + hex.EncodeToString(sum[:16])
	}
	return channel
}

// filter selects the events that any of the projections handles.
func (r *Runner) filter() eventstore.Filter {
	var types []string
	for _, v := range r.versions {
		own := v.projection.filter()
		if len(own.Types) == 0 {
			return own
		}
		types = append(types, own.Types...)
	}
	slices.Sort(types)
	return eventstore.Filter{Types: slices.Compact(types)}
}

// filter selects the events that the projection handles.
func (p *Projection) filter() eventstore.Filter { return filterOf(p.types) }

func filterOf(types []string) eventstore.Filter {
	if slices.Contains(types, allTypes) {
		return eventstore.Filter{}
	}
	return eventstore.Filter{Types: types}
}

// ids returns the ids of the projections in the order of their names and versions.
func (r *Runner) ids() []catalog.ID {
	return slices.SortedFunc(maps.Keys(r.versions), func(a, b catalog.ID) int {
		if a.Name != b.Name {
			return strings.Compare(a.Name, b.Name)
		}
		return a.Version - b.Version
	})
}
