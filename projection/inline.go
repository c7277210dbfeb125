package projection

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgschema"
)

// Inline lets appends keep projections themselves, in their own transactions: what is read after an append shows
// it. Give it to every store that appends, as [eventstore.Config.Inline], give the same projections to a
// [Runner], and call [Runner.StartInline] once all writers know them. Until then, and after
// [Runner.StopInline], the runner keeps them as it keeps others.
//
// An event that cannot be handled fails its append, and nobody else's. Appends whose events concern the same row wait
// for each other's commit; it is for read models whose rows are those of streams, or nearly so.
type Inline struct {
	schema   string
	versions []*Projection
	names    []string
}

// NewInline returns what a store in a schema, "" for "tidemark", needs to keep projections. They must have one
// partition, and be no subscriptions.
func NewInline(schema string, projections ...*Projection) (*Inline, error) {
	schema, err := pgschema.Name(schema)
	if err != nil {
		return nil, fmt.Errorf("projection.NewInline: %w", err)
	}
	n := &Inline{schema: schema, versions: projections}
	for _, p := range projections {
		if p.effects || p.options.Partitions > 1 {
			return nil, fmt.Errorf("projection.NewInline: %s is a subscription, or has several partitions", p.name)
		}
		n.names = append(n.names, fmt.Sprintf("%s:%d", p.name, p.options.Version))
	}
	return n, nil
}

// Names returns the projections' names with their versions.
func (n *Inline) Names() []string { return n.names }

// While anybody holds it shared, no projection begins or ends to be kept inline.
const shareInlineSQL = `select pg_advisory_xact_lock_shared(hashtext($1), 0)`

const excludeInlineSQL = `select pg_advisory_xact_lock(hashtext($1), 0)`

const inlineActiveSQL = `
select name || ':' || version
  from SCHEMA.projections
 where inline >= 0
   and name || ':' || version = any ($1)`

// In the order of the hash, so that two appends cannot deadlock.
const lockKeysSQL = `
select pg_advisory_xact_lock(hashtext($1), h.hash)
  from (select distinct hashtext(key) as hash
          from unnest($2::text[]) key
         order by 1) h`

// Apply handles the events of an append. It is for stores to call.
func (n *Inline) Apply(ctx context.Context, tx pgx.Tx, events []eventstore.Raw) error {
	if _, err := tx.Exec(ctx, shareInlineSQL, n.schema+".inline"); err != nil {
		return err
	}
	found, err := tx.Query(ctx, pgschema.In(n.schema, inlineActiveSQL), n.names)
	if err != nil {
		return err
	}
	active := make(map[string]bool)
	var name string
	if _, err := pgx.ForEachRow(found, []any{&name}, func() error { active[name] = true; return nil }); err != nil {
		return err
	}
	p := &page{Page: eventstore.Page{Events: events}, decoded: make(map[any][]decoded)}
	for i, projection := range n.versions {
		if !active[n.names[i]] {
			continue
		}
		if err := n.apply(ctx, tx, projection, projection.items(p, 0, 0)); err != nil {
			return err
		}
	}
	return nil
}

func (n *Inline) apply(ctx context.Context, tx pgx.Tx, p *Projection, items []item) error {
	if len(items) == 0 {
		return nil
	}
	if p.table != nil {
		var keys []string
		for i := range items {
			keys = append(keys, items[i].keyText())
		}
		if _, err := tx.Exec(ctx, lockKeysSQL, p.name, keys); err != nil {
			return err
		}
	}
	_, err := p.redo(ctx, tx, items, &batchInfo{projection: p, live: true, inbox: pgschema.In(n.schema, inboxSQL)})
	return err
}

const armInlineSQL = `
update SCHEMA.projections
   set inline = -1, updated_at = clock_timestamp()
 where name = $1
   and version = $2
   and inline is null`

const disarmInlineSQL = `
update SCHEMA.projections
   set inline = null, updated_at = clock_timestamp()
 where name = $1
   and version = $2
   and inline = -1`

// The transactions that were appending when it was armed: they may not know of it.
const appendingSQL = `
select l.virtualtransaction
  from pg_locks l
 where l.locktype = 'advisory'
   and l.database = (select d.oid from pg_database d where d.datname = current_database())
   and l.classid = hashtext($1)::oid
   and l.objsubid = 2
   and l.granted`

const setInlineSQL = `
update SCHEMA.projections
   set inline = $3, updated_at = clock_timestamp()
 where name = $1
   and version = $2`

const partedSQL = `
select min(checkpoint), sum(parked)::int
  from SCHEMA.projection_partitions
 where projection = $1
   and version = $2`

// StartInline lets appends keep a projection from now on, as soon as the runner has brought it to the end of the
// log; version 0 is the live one. From then on appends of its events through stores that do not know it are refused. Appends wait
// while it takes over, usually for some milliseconds. Dead letters must be dealt with before. It waits until ctx is done,
// and does nothing if the projection is kept inline already.
func (r *Runner) StartInline(ctx context.Context, name string, version int) (err error) {
	v, err := r.find(ctx, name, version)
	if err != nil {
		return err
	}
	if v.effects || v.options.Partitions > 1 {
		return fmt.Errorf("projection %s: %w: a subscription, or several partitions, cannot be kept inline", name, ErrRefused)
	}
	armed, err := r.pool.Exec(ctx, r.sql(armInlineSQL), name, v.options.Version)
	if err != nil {
		return fmt.Errorf("start projection %s inline: %w", name, err)
	}
	if armed.RowsAffected() == 1 {
		defer func() {
			if err != nil { // writers that do not know it may go on
				_, disarm := r.pool.Exec(context.WithoutCancel(ctx), r.sql(disarmInlineSQL), name, v.options.Version)
				err = errors.Join(err, disarm)
			}
		}()
	}
	if err := r.awaitAppends(ctx); err != nil {
		return fmt.Errorf("start projection %s inline: %w", name, err)
	}
	for {
		done, err := v.takeInline(ctx)
		if done || err != nil {
			return err
		}
		select {
		case <-time.After(askAfter):
		case <-ctx.Done():
			return fmt.Errorf("start projection %s inline: it is not at the end of the log yet: %w", name, context.Cause(ctx))
		}
	}
}

// awaitAppends returns when all appends have ended that are under way.
func (r *Runner) awaitAppends(ctx context.Context) error {
	var before map[string]bool
	for {
		found, _ := r.pool.Query(ctx, appendingSQL, r.schema+".events")
		ids, err := pgx.CollectRows(found, pgx.RowTo[string])
		if err != nil {
			return err
		}
		left := make(map[string]bool)
		for _, id := range ids {
			if before == nil || before[id] {
				left[id] = true
			}
		}
		if before = left; len(left) == 0 {
			return nil
		}
		select {
		case <-time.After(askAfter):
		case <-ctx.Done():
			return fmt.Errorf("appends are open that began before it: %w", context.Cause(ctx))
		}
	}
}

// takeInline gives the projection to the appends, if it is at the end of the log. No append that
// knows of it is between its events and their projection meanwhile.
func (v *version) takeInline(ctx context.Context) (done bool, err error) {
	err = v.operate(ctx, "start inline", v.name, v.options.Version, func(tx pgx.Tx) (map[string]any, error) {
		if _, err := tx.Exec(ctx, excludeInlineSQL, v.schema+".inline"); err != nil {
			return nil, err
		}
		var inline *int64
		var phase, state string
		if err := tx.QueryRow(ctx, v.sql(inlineStateSQL), v.name, v.options.Version).Scan(&inline, &phase, &state); err != nil {
			return nil, err
		}
		var tidemark, end, at eventstore.Position
		var parked int
		if err := tx.QueryRow(ctx, v.sql(tidemarkSQL)).Scan(&tidemark, &end); err != nil {
			return nil, err
		}
		if err := tx.QueryRow(ctx, v.sql(partedSQL), v.name, v.options.Version).Scan(&at, &parked); err != nil {
			return nil, err
		}
		switch {
		case inline == nil:
			return nil, fmt.Errorf("%w: somebody has called StopInline meanwhile", ErrRefused)
		case *inline >= 0:
			done = true
			return nil, errNothing
		case parked > 0 || phase != phaseLive || state != "running":
			return nil, fmt.Errorf("%w: it is %s and %s, and has %d dead letters", ErrRefused, phase, state, parked)
		case tidemark < end || at < end:
			return nil, errNothing
		}
		done = true
		_, err := tx.Exec(ctx, v.sql(setInlineSQL), v.name, v.options.Version, end)
		return map[string]any{"position": end}, err
	})
	if isNothing(err) {
		err = nil
	}
	return done && err == nil, err
}

const inlineStateSQL = `
select inline, phase, state
  from SCHEMA.projections
 where name = $1
   and version = $2`

// StopInline lets the runner keep a projection again that appends have kept, or were to keep; version 0 is the live
// one. Appends wait meanwhile.
func (r *Runner) StopInline(ctx context.Context, name string, version int) error {
	v, err := r.find(ctx, name, version)
	if err != nil {
		return err
	}
	for {
		waiting := false
		err := r.operate(ctx, "stop inline", name, v.options.Version, func(tx pgx.Tx) (map[string]any, error) {
			if _, err := tx.Exec(ctx, excludeInlineSQL, r.schema+".inline"); err != nil {
				return nil, err
			}
			var tidemark, end eventstore.Position
			var inline *int64
			var phase, state string
			if err := tx.QueryRow(ctx, r.sql(inlineStateSQL), name, v.options.Version).Scan(&inline, &phase, &state); err != nil {
				return nil, err
			}
			if err := tx.QueryRow(ctx, r.sql(tidemarkSQL)).Scan(&tidemark, &end); err != nil {
				return nil, err
			}
			switch {
			case inline == nil:
				return nil, errNothing
			case *inline >= 0 && tidemark < end: // what an open append has done may be before the end
				waiting = true
				return nil, errNothing
			case *inline >= 0: // all that is stored is in the read model
				if _, err := tx.Exec(ctx, r.sql(moveSQL), name, v.options.Version, end); err != nil {
					return nil, err
				}
			}
			_, err := tx.Exec(ctx, r.sql(setInlineSQL), name, v.options.Version, nil)
			return map[string]any{"position": end}, err
		})
		if !isNothing(err) || !waiting {
			if isNothing(err) {
				return nil
			}
			return err
		}
		select {
		case <-time.After(askAfter):
		case <-ctx.Done():
			return fmt.Errorf("stop projection %s inline: appends are open: %w", name, context.Cause(ctx))
		}
	}
}

const moveSQL = `
update SCHEMA.projection_partitions
   set checkpoint = $3
 where projection = $1
   and version = $2`
