package eventstore

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/internal/isnil"
	"github.com/tidemark-es/tidemark/internal/pglisten"
	"github.com/tidemark-es/tidemark/internal/pgpool"
	"github.com/tidemark-es/tidemark/internal/pgschema"
)

// Config adjusts a [Store]. Nil and the zero value are the defaults.
type Config struct {
	// Schema is the Postgres schema the store was migrated into; empty means "tidemark".
	Schema string
	// MaxEventBytes bounds one payload, and the metadata of one event. 0 means 1 MiB; at most 16 MiB are allowed.
	// [MaxCommitBytes], [MaxCommitEvents] and [MaxCommitStreams] bound a whole commit.
	MaxEventBytes int
	// PageSize is how many events a reader fetches at once, and holds in memory twice; at most 100,000 are allowed. 0
	// means 1000, and lets [Store.ReadAll] and [Store.Follow] begin with 100 and go on with pages of about 2 MiB, of
	// at most 5,000 events.
	PageSize int
	// PollInterval is how often a reader at the end of the log looks for events without a notification; 0 means 100
	// ms. Appends through a Store wake its own readers at once, and the readers of other processes by a notification.
	// No notification tells of the commit of a caller's transaction, of an append from SQL, or of the end of an open
	// transaction that has held the tidemark back. After a hundred intervals without news a reader that can be notified
	// looks in every tenth interval only. An append in a caller's transaction is news, also before its commit.
	PollInterval time.Duration
	// PollOnly leaves out the connection that listens for notifications. Set it behind a pooler in transaction mode,
	// such as PgBouncer: such a pooler does not pass notifications on.
	PollOnly bool
	// Inline runs in the transaction of every append, also in a caller's transaction. The rows that it writes are
	// there when the append returns. When it fails, the append stores nothing. Appends that concern the same rows
	// wait for each other. See projection.NewInline.
	Inline AppendHook
	// Check is called before every commit, in the goroutine of the caller, with the changes as they will be stored.
	// If it returns an error, nothing of the commit is stored, and the error is wrapped. Check must not change its
	// argument.
	Check func(ctx context.Context, changes []Change) error
	// Service is the name of this program in the metadata of the events that it appends, see [Metadata]. It has at
	// most 250 bytes; empty means no name.
	Service string
	// Stale lets a standby answer reads of streams: [Store.Read], [Store.Stat], [Store.Streams] and
	// [Store.RecentStreams]. The answer is as old as the standby is behind the primary, so a stream can end before a
	// receipt that the caller holds. Do not base decisions on it. Without Stale such a read returns an
	// [UnprovenError] on a standby.
	Stale bool
	// Observer is told of appends and groups; the zero value observes nothing.
	Observer Observer
	// Logger gets a warning when a follower cannot listen or read; nil means slog.Default().
	Logger *slog.Logger
}

// DefaultMaxEventBytes is the largest payload a store accepts unless Config says otherwise.
const DefaultMaxEventBytes = 1 << 20

// maxPage bounds how many events, or streams, one answer of Postgres may hold.
const maxPage = 100_000

// Store is an event store in Postgres. Make one per pool and schema and share it: an append wakes the readers of its
// own Store at once.
type Store struct {
	config Config
	sql    statements
	db     querier
	inTx   bool   // in the caller's transaction: the store retries nothing and does not commit
	tx     pgx.Tx // the caller's transaction; an append waits for locks until its context is done
	// adaptive says that the size of pages depends on the size of events.
	adaptive bool

	inline   *inliner // nil without Config.Inline
	news     *news
	group    *group
	notifier *notifier
	listener *pglisten.Listener // nil with Config.PollOnly
}

// querier is a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// New returns a store over a pool; it does not connect. The error is an [InvalidError]. If the database has not been
// migrated, the first use of the store returns [ErrNotMigrated].
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
	adaptive := c.PageSize == 0
	if adaptive {
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
		sql:      newStatements(schema, &c),
		db:       bounded,
		news:     newNews(),
		adaptive: adaptive,
	}
	s.notifier = newNotifier(bounded, schema)
	s.group = newGroup(bounded, &s.sql, func() {
		s.news.spread()
		s.notifier.notify()
	})
	s.group.observe = c.Observer.Group
	if c.Inline != nil {
		s.inline = &inliner{c.Inline, s}
		s.group.inline = s.inline
	}
	if !c.PollOnly {
		s.listener = &pglisten.Listener{
			Pool: bounded, Channel: schema, Own: s.notifier.sender, Wake: s.news.spread, Logger: c.Logger,
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

// Close waits for the running appends, and refuses later appends with [ErrClosed]. The store can still be read. Tell
// followers of the log to stop before Close, and close the pool after it.
func (s *Store) Close() {
	s.group.close()
	s.notifier.close()
	if s.listener != nil {
		s.listener.Close()
	}
}

// WithTx returns a copy of the store that works within the caller's transaction. The events that it appends are
// stored when the caller commits, together with everything else that the transaction does. [Store.Read] on the copy
// returns these events before the commit; [Store.ReadAll] does not.
//
// The transaction can still be used after a [KeyReusedError], and after a [ConflictError] whose Actual is not
// [Unknown]. After any other error from Postgres it is aborted, as after any failed statement. With Config.Inline
// each append has a savepoint instead: the error undoes the append, and the transaction can still be used. Nothing is
// retried.
//
// Until the transaction ends, appends to its streams wait, in other processes too. An open transaction that has
// appended holds the tidemark back, and so every reader: keep it short. Each append takes an entry of the server's
// lock table, which has room for some thousands: append many events at once rather than many times. Do not use the
// copy after the transaction has ended. WithTx panics when tx is nil.
func (s *Store) WithTx(tx pgx.Tx) *Store {
	if isnil.Any(tx) {
		panic("eventstore: Store.WithTx: the transaction is nil: pass one that Begin returned without an error")
	}
	bound := *s
	bound.db, bound.tx, bound.inTx = pgpool.Tx{Tx: tx, Pool: s.group.pool}, tx, true
	return &bound
}

// InTx reports whether the store is bound to a transaction by [Store.WithTx]. Such a store does not retry a failed
// append. After a conflict whose actual version is known the caller can append again in the same transaction. After
// other errors it needs a new transaction.
func (s *Store) InTx() bool { return s.inTx }

// Tidemark returns the position up to which every reader may read: the position of the last event with no open append
// before it, 0 for an empty log. It decreases only when the log goes back, after a failover that lost events or after
// a restore. It returns [ErrNoTidemark] on a standby, in a transaction that is not read committed, and where row
// level security hides events from the owner of the schema. It returns a [SequenceError] when the sequence of
// positions is behind the log, for example after a restore that left the sequence out.
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
	stream, backwards, asOf, through, from       string
	page, filtered, pageBackwards, scanBackwards string
	correlated, stat, streams, recent            string
	stored, declare, identity                    string
	status, heldFor, holder                      string
	count, estimate, eventsAt, event             string
}

func newStatements(schema string, c *Config) statements {
	proven := "proven()"
	if c.Stale {
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
		from:          in(strings.Replace(fromSQL, "LIMIT", strconv.Itoa(c.PageSize), 1)),
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
