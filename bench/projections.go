package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

const (
	fewKeys, manyKeys = 1000, 100_000
	// together is how many projections run at the same time and share the reading of the log.
	together = 10
	// memoryLimit is the target for the memory of a rebuild, in bytes.
	memoryLimit = 200 << 20
)

// partitions returns the numbers of partitions to measure. A short run measures only the first.
func (b *bench) partitions(all ...int) []int { return all[:b.either(len(all), 1)] }

// model is a way to write a projection.
type model struct {
	name  string
	share int     // a rebuild handles the first 1/share of the log; more than 1 for slow models
	want  float64 // the target for a rebuild with one partition, as a ratio to COPY; 0 for none
	make  func(partitions int) *projection.Projection
	rows  int // how many rows of the read model count each event; 0 for no read model
}

var models = []model{
	{name: "handler, trivial", share: 1, make: func(partitions int) *projection.Projection { return trivial("trivial", partitions) }},
	{name: "handler, upserts", share: 20, make: upserts, rows: 1},
	{name: "queued upserts", share: 5, make: queuedUpserts, rows: 1},
	{name: "table, " + whole(fewKeys) + " keys", share: 1, want: 0.25, make: tableOf(fewKeys), rows: 1},
	{name: "table, " + whole(manyKeys) + " keys", share: 1, want: 0.25, make: tableOf(manyKeys), rows: 1},
	{name: "table, two rows per event, " + whole(fewKeys) + " keys", share: 1, make: transfers, rows: 2},
	{name: "table with a time, " + whole(fewKeys) + " keys", share: 1, make: timedTable, rows: 1},
}

// balance is a row of a read model.
type balance struct {
	Account string `db:"account,key"`
	Events  int64
	Balance int64
}

// options returns the options of a projection whose table counts the events of accounts.
func options(partitions int) *projection.Options {
	return &projection.Options{
		Partitions: partitions,
		Tables:     []string{schema + ".balances"},
		DDL:        `create table {` + schema + `.balances} (account text primary key, events bigint not null, balance bigint not null)`,
	}
}

// keyed spreads the events over the given number of accounts.
func keyed(keys int) func(eventstore.Event[deposited]) string {
	return func(event eventstore.Event[deposited]) string {
		return "account-" + strconv.FormatInt(int64(event.Position)%int64(keys), 10)
	}
}

// trivial returns a projection that does nothing.
func trivial(name string, partitions int) *projection.Projection {
	return projection.New(name, &projection.Options{Partitions: partitions},
		projection.On(depositing, func(context.Context, pgx.Tx, eventstore.Event[deposited]) error { return nil }))
}

const upsertSQL = `
insert into {` + schema + `.balances} as b (account, events, balance)
values ($1, 1, $2)
on conflict (account) do update
   set events = b.events + 1, balance = b.balance + excluded.balance`

// queuedUpserts returns a projection that writes a row for each event, and does not wait for the answer.
func queuedUpserts(partitions int) *projection.Projection {
	key := keyed(fewKeys)
	return projection.New("queued", options(partitions),
		projection.OnWrite(depositing, key, func(statements *pgx.Batch, event eventstore.Event[deposited]) error {
			statements.Queue(upsertSQL, key(event), event.Data.Amount)
			return nil
		}))
}

// upserts returns a projection that writes a row for each event.
func upserts(partitions int) *projection.Projection {
	key := keyed(fewKeys)
	return projection.New("upserts", options(partitions),
		projection.OnKeyed(depositing, key, func(ctx context.Context, tx pgx.Tx, event eventstore.Event[deposited]) error {
			_, err := tx.Exec(ctx, upsertSQL, key(event), event.Data.Amount)
			return err
		}))
}

// tableOf returns a projection that folds the events into the given number of rows.
func tableOf(keys int) func(partitions int) *projection.Projection {
	return func(partitions int) *projection.Projection {
		return projection.NewTable("table", options(partitions),
			projection.Fold(depositing, keyed(keys), func(row *balance, event eventstore.Event[deposited]) projection.Op {
				row.Events++
				row.Balance += event.Data.Amount
				return projection.Put
			}))
	}
}

// timedBalance is a row with a time, which Postgres does not give back exactly as it was written.
type timedBalance struct {
	balance
	At time.Time
}

// transfers returns a projection that folds each event into two rows: that of its own account and the next one.
func transfers(partitions int) *projection.Projection {
	from := keyed(fewKeys)
	keys := func(event eventstore.Event[deposited]) []string {
		return []string{from(event), "account-" + strconv.FormatInt(int64(event.Position+1)%fewKeys, 10)}
	}
	return projection.NewTable("transfers", options(partitions),
		projection.FoldKeys(depositing, keys, func(row *balance, event eventstore.Event[deposited]) projection.Op {
			row.Events++
			if row.Account == from(event) {
				row.Balance -= event.Data.Amount
			} else {
				row.Balance += event.Data.Amount
			}
			return projection.Put
		}))
}

// timedTable is tableOf with a time in each row.
func timedTable(partitions int) *projection.Projection {
	o := options(partitions)
	o.DDL = `create table {` + schema + `.balances} (account text primary key, events bigint not null, balance bigint not null, at timestamptz not null)`
	return projection.NewTable("table", o,
		projection.Fold(depositing, keyed(fewKeys), func(row *timedBalance, event eventstore.Event[deposited]) projection.Op {
			row.Events++
			row.Balance += event.Data.Amount
			row.At = event.RecordedAt
			return projection.Put
		}))
}

func (b *bench) projections(ctx context.Context) error {
	for _, part := range []func(context.Context) error{b.rebuilding, b.sharing, b.keepingUp, b.lagging} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

// backlog is how many events there are to catch up with.
func (b *bench) backlog() int { return min(b.max, b.either(500_000, 5000)) }

func (b *bench) rebuilding(ctx context.Context) error {
	b.section("Projections that catch up", fmt.Sprintf("Events per second from the beginning of a log of %s events (with upserts, the first %dth of them), "+
		"with checkpoints. The reference is COPY of the log, as in Read. A trivial handler does nothing. Upserts write one of %s rows for each event. "+
		"The tables fold the events into rows. Memory is the most that Go held from the system.", whole(b.backlog()), models[1].share, whole(fewKeys)),
		slices.Concat([]string{"projection", "partitions"}, columns("COPY"), []string{"memory"})...)
	return b.database(ctx, func(db *database) error {
		if _, err := b.grow(ctx, db, b.backlog()); err != nil {
			return err
		}
		if err := db.settle(ctx); err != nil {
			return err
		}
		most := int64(0)
		for _, m := range models {
			for _, n := range b.partitions(1, 2, 4) {
				r, err := b.rebuilds(ctx, db, b.backlog()/m.share, m.rows, m.make(n))
				if err != nil {
					return fmt.Errorf("%s, %d partitions: %w", m.name, n, err)
				}
				b.row(slices.Concat([]string{m.name, whole(n)}, r.cells(), []string{megabytes(r.memory)})...)
				most = max(most, r.memory)
				if n == 1 && m.want > 0 {
					b.target("rebuild to COPY, "+m.name, r.ratio(), m.want)
				}
			}
		}
		b.target(megabytes(memoryLimit)+" to the memory of a rebuild", float64(memoryLimit)/float64(most), 1)
		return nil
	})
}

func (b *bench) sharing(ctx context.Context) error {
	b.section("Projections together", fmt.Sprintf("How long projections take to catch up with %s events, with handlers that do nothing. "+
		"The last column is this time divided by that of one projection.", whole(b.backlog())),
		"projections", "partitions", "median", "times one")
	return b.database(ctx, func(db *database) error {
		if _, err := b.grow(ctx, db, b.backlog()); err != nil {
			return err
		}
		if err := db.settle(ctx); err != nil {
			return err
		}
		for _, partitions := range b.partitions(1, 4) {
			var one, all []time.Duration
			for start := time.Now(); len(one) < 3 || time.Since(start) < b.duration(); {
				for _, group := range []struct {
					size int
					took *[]time.Duration
				}{{1, &one}, {together, &all}} {
					var ps []*projection.Projection
					for n := range group.size {
						ps = append(ps, trivial(fmt.Sprintf("trivial-%d", n), partitions))
					}
					t, err := b.rebuild(ctx, db, b.backlog(), 0, ps...)
					if err != nil {
						return err
					}
					*group.took = append(*group.took, t.took)
				}
			}
			first, last := percentile(one, 50), percentile(all, 50)
			b.row("1", whole(partitions), millis(first), ratio(1))
			b.row(whole(together), whole(partitions), millis(last), ratio(last.Seconds()/first.Seconds()))
			b.target(fmt.Sprintf("time for one projection to %d, partitions: %d", together, partitions), first.Seconds()/last.Seconds(), 1./2)
		}
		return nil
	})
}

// handled returns how many events the projections have handled. It returns an error unless the given number of rows
// of the read model count each of them; with 0 rows it does not check.
func (db *database) handled(ctx context.Context, rows int) (handled int, err error) {
	if err := db.pool.QueryRow(ctx, in(`select sum(handled)::bigint from SCHEMA.projection_partitions`)).Scan(&handled); err != nil || rows == 0 {
		return handled, err
	}
	var counted int
	err = db.pool.QueryRow(ctx, in(`select sum(events)::bigint from SCHEMA.balances`)).Scan(&counted)
	if err == nil && counted != handled*rows {
		err = fmt.Errorf("the read model counts %d events, want %d for each of the %d handled events", counted, rows, handled)
	}
	return handled, err
}

// project runs projections while it calls do. They have a store and connections of their own, like another process.
func (b *bench) project(ctx context.Context, ps []*projection.Projection, do func(context.Context, *projection.Runner) error) error {
	pool, err := b.connect(ctx)
	if err != nil {
		return err
	}
	defer pool.Close()
	store, err := eventstore.New(pool, &eventstore.Config{Schema: schema})
	if err != nil {
		return err
	}
	defer store.Close()
	runner, err := projection.NewRunner(pool, store, &projection.Config{Schema: schema}, ps...)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	running, stop := context.WithCancel(ctx)
	defer stop()
	group.Go(func() error { return runner.Run(running) })
	group.Go(func() error {
		defer stop()
		return do(ctx, runner)
	})
	return group.Wait()
}
