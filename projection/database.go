package projection

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/lease"
	"github.com/tidemark-es/tidemark/internal/pgpool"
	"github.com/tidemark-es/tidemark/internal/signal"
	"github.com/tidemark-es/tidemark/projection/internal/catalog"
)

// database is where projections are stored, together with the log that they follow. Runners and operators use it. It
// knows no application code.
type database struct {
	pool    *pgpool.Pool
	log     reader
	catalog *catalog.Catalog
	owner   string         // name of this process in leases and notifications
	idle    time.Duration  // how long Postgres lets a transaction of this process be idle
	changed *signal.Signal // notified when leases or phases may have changed
	logger  *slog.Logger
	observe func(live Ref) // called when this process has switched versions; may be nil
}

func newDatabase(pool *pgxpool.Pool, log Log, schema string, config Config) *database {
	return &database{
		pool: pgpool.New(pool), log: reader{log}, catalog: catalog.New(schema), owner: lease.NewOwner(), idle: config.Lease,
		changed: signal.New(), logger: config.Logger, observe: config.Observer.Switch,
	}
}

// beginSQL begins a transaction that moves a checkpoint, or that an operator asked for. If this process is
// stopped in the middle of the transaction, the locks on its rows would block every other process. Postgres
// therefore ends the transaction when its client has sent nothing for the length of a lease.
func (d *database) beginSQL() string {
	return fmt.Sprintf("begin isolation level read committed; set local idle_in_transaction_session_timeout = %d",
		d.idle.Milliseconds())
}

// inTx calls do in a transaction that beginSQL begins.
func (d *database) inTx(ctx context.Context, do func(pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, d.pool, pgx.TxOptions{BeginQuery: d.beginSQL()}, do)
}

// send executes a batch of statements in one transaction, and waits for its end.
func (d *database) send(ctx context.Context, b *pgx.Batch) error {
	return d.pool.SendBatch(ctx, b).Close()
}

func (d *database) leases() *catalog.Leases {
	return &catalog.Leases{Catalog: d.catalog, DB: d.pool, Send: d.send}
}

// announce wakes all runners. A runner of another process that misses the notification finds the change within a
// second.
func (d *database) announce(ctx context.Context) {
	d.tellOthers(ctx)
	d.changed.Notify()
}

// tellOthers is announce for the runners of other processes only.
func (d *database) tellOthers(ctx context.Context) {
	d.leases().Announce(ctx, channelOf(d.catalog.Schema()), d.owner)
}

// refuseInline returns [ErrRefused] if appends keep the version; with version 0, if they keep any version of the name.
func (d *database) refuseInline(ctx context.Context, db catalog.DB, id catalog.ID) error {
	inline, err := d.catalog.KeptInline(ctx, db, id)
	if err == nil && inline {
		err = fmt.Errorf("%w: it is kept inline: call StopInline first", ErrRefused)
	}
	return err
}

// operate runs an operator's change of a version, or of all versions with version 0, in one transaction. It raises the
// fencing tokens, so that batches under way fail and are done again. It makes the change, records it in the audit
// table, and then notifies all runners.
//
// Batches lock tables and rows before the partition, and operate locks them in the opposite order. A change that needs
// a lock on a whole table therefore takes that lock in one of the functions first. A change of a row that a batch has
// locked may end in a deadlock, and is then tried again.
func (d *database) operate(ctx context.Context, action string, id catalog.ID,
	do func(pgx.Tx) (map[string]any, error), first ...func(pgx.Tx) error) error {
	return d.operateOn(ctx, action, id, nil, do, first...)
}

// operateOn is operate for some partitions of a version: only these are fenced. nil means all partitions.
func (d *database) operateOn(ctx context.Context, action string, id catalog.ID, partitions []int32,
	do func(pgx.Tx) (map[string]any, error), first ...func(pgx.Tx) error) error {
	err := d.inTx(ctx, func(tx pgx.Tx) error {
		for _, f := range first {
			if err := f(tx); err != nil {
				return err
			}
		}
		if _, err := d.catalog.LockVersions(ctx, tx, id.Name); err != nil {
			return err
		}
		if err := d.catalog.Fence(ctx, tx, id, partitions); err != nil {
			return err
		}
		details, err := do(tx)
		if err != nil {
			return err
		}
		return d.audit(ctx, tx, id, action, details)
	})
	if err != nil {
		return fmt.Errorf("%s projection %s: %w", action, id.Name, err)
	}
	d.announce(ctx)
	return nil
}

// audit records a change of a version. The actor is that of the context's metadata.
func (d *database) audit(ctx context.Context, tx pgx.Tx, id catalog.ID, action string, details map[string]any) error {
	return d.catalog.Audit(ctx, tx, id, action, eventstore.MetadataFrom(ctx).Actor, details)
}
