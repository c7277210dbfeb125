package eventstore

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/internal/isnil"
	"github.com/tidemark-es/tidemark/internal/pglisten"
	"github.com/tidemark-es/tidemark/internal/pgpool"
	"github.com/tidemark-es/tidemark/internal/pgschema"
	"github.com/tidemark-es/tidemark/internal/signal"
)

// Config adjusts a [Store]. Nil and the zero value are the defaults.
type Config struct {
	// Schema is the Postgres schema the store was migrated into; empty means "tidemark".
	Schema string
	// MaxEventBytes bounds one payload, and the metadata of one event; 0 means 1 MiB, at most 16 MiB are
	// allowed. What a whole commit may hold is [MaxCommitBytes], [MaxCommitEvents] and [MaxCommitStreams].
	MaxEventBytes int
	// PageSize is how many events a reader fetches, and holds in memory, at once; 0 means 1000, at most
	// 100,000 are allowed.
	PageSize int
	// PollInterval is how often a reader at the end of the log looks for events of which it was
	// not told; 0 means 100 ms. Appends through a Store wake its readers at once, and those of
	// other processes by a notification. There is no notification of appends in a caller's transaction, whose
	// commit the Store does not see, nor of appends from SQL, nor of the end of an open transaction that has
	// held the tidemark back.
	PollInterval time.Duration
	// PollOnly leaves out the connection that listens for notifications, which a pooler in
	// transaction mode such as PgBouncer does not pass on.
	PollOnly bool
	// Inline is done in the transaction of every append, also of those in a caller's transaction: what
	// it writes is there when the append returns, and when it fails nothing was stored. Appends that concern the
	// same rows wait for each other. See projection.NewInline.
	Inline AppendHook
	// Check is asked before every commit, with its changes as they are to be stored, in the goroutine of the caller: an
	// error refuses the commit, of which nothing is stored, and is wrapped. It must not change what it is given.
	Check func(ctx context.Context, changes []Change) error
	// Service is what this program is called in the metadata of the events that it appends, see [Metadata]; at
	// most 250 bytes, empty for none.
	Service string
	// Stale lets a standby answer what is asked of single streams: [Store.Read], [Store.Stat],
	// [Store.Streams] and [Store.RecentStreams]. The answer is as old as the standby is behind: a stream may
	// end before a receipt that the caller holds. Nothing should be decided on it. Without Stale such a read
	// returns an [UnprovenError] on a standby.
	Stale bool
	// Observer is told of appends and groups; the zero value observes nothing.
	Observer Observer
	// Logger is told when a connection of a follower is lost; nil means
	// slog.Default().
	Logger *slog.Logger
}

// DefaultMaxEventBytes is the largest payload a store accepts unless Config says otherwise.
const DefaultMaxEventBytes = 1 << 20

// maxPage bounds how many events, or streams, one answer of Postgres may hold.
const maxPage = 100_000

// Store is an event store in Postgres. Make one per pool and schema and share it: its readers
// are woken by its own appends.
type Store struct {
	config Config
	sql    statements
	db     querier
	inTx   bool   // in the caller's transaction: it must not be retried, and does not commit here
	tx     pgx.Tx // in which appends wait for locks as long as the caller allows

	inline   *inliner // nil if nothing is done inline
	appended *signal.Signal
	group    *group
	notifier *notifier
	listener *pglisten.Listener // nil if it only polls
}

// querier is a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// New returns a store over a pool; it does not connect. The error is an [InvalidError]. A
// database that has not been migrated shows as [ErrNotMigrated] on first use.
func New(pool *pgxpool.Pool, config *Config) (*Store, error) {
	if pool == nil {
		return nil, invalid("eventstore.New: the pool is nil: pass one made by pgxpool.New")
	}
	var c Config
	if config != nil {
		c = *config
	}
	schema, err := pgschema.Name(c.Schema)
	if err != nil {
		return nil, invalid("eventstore.New: %v", err)
	}
	if err := c.validate(); err != nil {
		return nil, err
	}
	if c.MaxEventBytes == 0 {
		c.MaxEventBytes = DefaultMaxEventBytes
	}
	if c.PageSize == 0 {
		c.PageSize = 1000
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.PollInterval == 0 {
		c.PollInterval = 100 * time.Millisecond
	}
	bounded := pgpool.New(pool)
	s := &Store{
		config:   c,
		sql:      newStatements(schema, c.Stale),
		db:       bounded,
		appended: signal.New(),
	}
	s.notifier = newNotifier(bounded, schema)
	s.group = newGroup(bounded, &s.sql, func() {
		s.appended.Notify()
		s.notifier.notify()
	})
	s.group.observe = c.Observer.Group
	if c.Inline != nil {
		s.inline = &inliner{c.Inline, s}
		s.group.inline = s.inline
	}
	if !c.PollOnly {
		s.listener = &pglisten.Listener{
			Pool: bounded, Channel: schema, Own: s.notifier.sender, Wake: s.appended.Notify, Logger: c.Logger,
			Failing: "eventstore: cannot listen for appends of other processes: until the connection is back they are seen by polling",
		}
	}
	return s, nil
}

// validate returns an [InvalidError] that names a field and its value.
func (c *Config) validate() error {
	switch {
	case c.MaxEventBytes < 0 || c.MaxEventBytes > MaxCommitBytes/4:
		return invalid("eventstore.New: Config.MaxEventBytes is %d: want a number of bytes up to %d, or 0 for %d", c.MaxEventBytes, MaxCommitBytes/4, DefaultMaxEventBytes)
	case c.PageSize < 0 || c.PageSize > maxPage:
		return invalid("eventstore.New: Config.PageSize is %d: want a number of events up to %d, or 0 for 1000", c.PageSize, maxPage)
	case c.PollInterval < 0:
		return invalid("eventstore.New: Config.PollInterval is %s: want a duration above 0, or 0 for 100ms", c.PollInterval)
	case c.Service != "" && validName("service", c.Service) != nil:
		return invalid("eventstore.New: Config.Service: %v", validName("service", c.Service))
	case c.Inline != nil && isnil.Any(c.Inline):
		return invalid("eventstore.New: Config.Inline holds a nil %T: leave the field out, or pass what projection.NewInline returned without an error", c.Inline)
	}
	return nil
}

// Close waits for the appends under way, and refuses later ones with [ErrClosed]. The store can
// still be read. Call it before closing the pool, after those who follow the log have been told to
// stop.
func (s *Store) Close() {
	s.group.close()
	s.notifier.running.Wait()
	if s.listener != nil {
		s.listener.Close()
	}
}

// WithTx returns a copy of the store that works within the caller's transaction: what it appends
// is stored when the caller commits, together with whatever else the transaction does. It reads
// its own streams, but [Store.ReadAll] does not see its own events before they are committed.
//
// A [ConflictError] or [KeyReusedError] leaves the transaction as it was; after any other error from
// Postgres it is aborted, as after any failed statement. Nothing is retried. Until the transaction ends, appends to
// its streams wait, in other processes too. An open transaction that has appended holds the tidemark back, and with it every
// reader: keep it short. Each append takes an entry of the server's lock table, which has room
// for some thousands: append many events at once rather than many times. The copy must not be
// used after the transaction has ended. It panics when tx is nil.
func (s *Store) WithTx(tx pgx.Tx) *Store {
	if isnil.Any(tx) {
		panic("eventstore: Store.WithTx: the transaction is nil: pass one that Begin returned without an error")
	}
	bound := *s
	bound.db, bound.tx, bound.inTx = pgpool.Tx{Tx: tx, Pool: s.group.pool}, tx, true
	return &bound
}

// InTx reports whether the store is bound to a transaction by [Store.WithTx]: then an append that failed is the
// caller's to try again, in the same transaction after a conflict whose
// actual version is known, and otherwise in a new one.
func (s *Store) InTx() bool { return s.inTx }

// Tidemark returns the position up to which every reader may read: that of the last event with
// no open append before it, 0 for an empty log. It never decreases while the database lives. It
// returns [ErrNoTidemark] on a standby and in a transaction that is not read committed, and a
// [SequenceError] when the sequence of positions is behind the log, as after a restore that left it out.
func (s *Store) Tidemark(ctx context.Context) (Position, error) {
	rows, err := s.db.Query(ctx, s.sql.tidemark)
	if err != nil {
		return 0, translate(err, "read the tidemark")
	}
	position, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[Position])
	if err != nil {
		return 0, translate(err, "read the tidemark")
	}
	return position, nil
}

// statements are the store's SQL with its schema put in.
type statements struct {
	group, one, tidemark, end, key, purge        string
	stream, backwards, asOf, through             string
	page, filtered, pageBackwards, scanBackwards string
	correlated, stat, streams, recent            string
	stored, declare, identity                    string
	status, heldFor, holder                      string
	count, estimate, eventsAt, event             string
}

func newStatements(schema string, stale bool) statements {
	proven := "proven()"
	if stale {
		proven = "proven(stale => true)"
	}
	in := func(sql string) string { return pgschema.In(schema, strings.ReplaceAll(sql, "PROVEN", proven)) }
	return statements{
		group:         in(groupSQL),
		one:           in(oneSQL),
		tidemark:      in(tidemarkSQL),
		end:           in(endSQL),
		key:           in(keySQL),
		stream:        in(streamSQL),
		page:          in(pageSQL),
		filtered:      in(filteredSQL),
		purge:         in(purgeSQL),
		backwards:     in(backwardsSQL),
		asOf:          in(asOfSQL),
		through:       in(throughSQL),
		pageBackwards: in(pageBackwardsSQL),
		scanBackwards: in(scanBackwardsSQL),
		correlated:    in(correlatedSQL),
		stat:          in(statSQL),
		streams:       in(streamsSQL),
		recent:        in(recentSQL),
		declare:       in(declareSQL),
		identity:      in(identitySQL),
		stored:        in(storedSQL),
		status:        in(statusSQL),
		heldFor:       in(heldForSQL),
		holder:        in(holderSQL),
		count:         in(countSQL),
		estimate:      in(estimateSQL),
		eventsAt:      in(eventsAtSQL),
		event:         in(eventSQL),
	}
}

const tidemarkSQL = `select SCHEMA.tidemark()`

func wrap(err error, format string, args ...any) error {
	return fmt.Errorf("eventstore: "+format+": %w", append(args, err)...)
}
