package projection

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pause"
	"github.com/tidemark-es/tidemark/internal/pgerr"
	"github.com/tidemark-es/tidemark/internal/pgschema"
	"github.com/tidemark-es/tidemark/projection/internal/catalog"
	"github.com/tidemark-es/tidemark/projection/internal/feed"
)

// Inline lets appends keep projections in their own transactions: a read after an append sees the append's events. Give
// it to every store that appends, as [eventstore.Config.Inline]. Give the same projections to a [Runner], and call
// [RunnerOperator.StartInline] when all writers know them. Before that, and after [RunnerOperator.StopInline], the
// runner keeps them like other projections.
//
// An event that cannot be handled fails its append, and no other append. Appends whose events concern the same row wait
// for each other's commit. Inline is for read models in which each row belongs to one stream, or to few.
type Inline struct {
	catalog  *catalog.Catalog
	versions []*Projection
	names    []string
}

// NewInline returns an Inline for the stores of a schema; the schema "" means "tidemark". There must be at least one
// projection. Each must have one partition, must not be a subscription, and must differ from the others in name or
// version.
func NewInline(schema string, projections ...*Projection) (*Inline, error) {
	schema, err := pgschema.Name(schema)
	if err != nil {
		return nil, fmt.Errorf("projection.NewInline: %w", err)
	}
	if len(projections) == 0 {
		return nil, errors.New("projection.NewInline: there is no projection: pass the projections that appends will keep")
	}
	n := &Inline{catalog: catalog.New(schema), versions: slices.Clone(projections)}
	for i, p := range projections {
		switch {
		case p == nil || p.name == "":
			return nil, fmt.Errorf("projection.NewInline: projection %d of %d is nil or empty: pass one that New or NewTable returned", i+1, len(projections))
		case p.effects:
			return nil, fmt.Errorf("projection.NewInline: projection %q is a subscription: a failed append could not undo its effects", p.name)
		case p.options.Partitions > 1:
			return nil, fmt.Errorf("projection.NewInline: projection %q: Options.Partitions is %d: want 1", p.name, p.options.Partitions)
		}
		name := fmt.Sprintf("%s:%d", p.name, p.options.Version)
		if slices.Contains(n.names, name) {
			return nil, fmt.Errorf("projection.NewInline: two projections are named %q and have version %d", p.name, p.options.Version)
		}
		n.names = append(n.names, name)
	}
	return n, nil
}

// Names returns the projections' names with their versions.
func (n *Inline) Names() []string { return n.names }

// Apply handles the events of an append. Stores call it.
func (n *Inline) Apply(ctx context.Context, tx pgx.Tx, events []eventstore.Raw) error {
	active, err := n.catalog.ActiveInline(ctx, tx, n.names)
	if err != nil {
		return err
	}
	p := feed.NewPage(0, eventstore.Page{Events: events})
	for i, projection := range n.versions {
		if !slices.Contains(active, n.names[i]) {
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
	info := &batchInfo{projection: p, live: true, catalog: n.catalog}
	if p.table == nil {
		return n.guarded(ctx, tx, p, func() error { _, err := p.redo(ctx, tx, items, info); return err })
	}
	var keys []string
	for i := range items {
		keys = append(keys, items[i].keyText())
	}
	if err := n.catalog.LockKeys(ctx, tx, p.name, keys); err != nil {
		return err
	}
	_, err := p.redo(ctx, tx, items, info)
	return err
}

// guarded calls handlers, and makes a commit by a handler fail, as in a batch. Otherwise a handler could commit changes
// of an append that then fails.
func (n *Inline) guarded(ctx context.Context, tx pgx.Tx, p *Projection, handle func() error) error {
	id := uuid.New()
	if err := n.catalog.Guard(ctx, tx, id); err != nil {
		return err
	}
	if err := handle(); err != nil {
		return err
	}
	same, err := n.catalog.Unguard(ctx, tx, id)
	if err == nil && !same { // the row was in a transaction that the handler has ended
		err = fmt.Errorf("projection %s: %w", p.name, errEnded)
	}
	return err
}

// StartInline makes appends keep a projection, as soon as the runner has brought it to the end of the log. It waits
// until ctx is done. It does nothing if appends keep the projection already. The projection must have no dead letters.
//
// From the call on, an append of the projection's events is refused if its store does not know the projection. In
// addition, in the whole schema, every append in a transaction that is not read committed is refused, even after
// StopInline: such a transaction may not see that projections are kept inline.
//
// Appends through stores with Config.Inline wait during the hand-over. They usually wait for some milliseconds. They
// wait for up to some seconds at a time if the runner is slow, or if one of these appends is in a transaction that
// stays open.
//
// With the roles of migrations.CreateRoles only an operator can call StartInline and [RunnerOperator.StopInline],
// because they can stop the appends of others.
func (o *RunnerOperator) StartInline(ctx context.Context, ref Ref) (err error) {
	v, err := o.find(ctx, "start inline", ref)
	if err != nil {
		return err
	}
	if v.projection.effects || v.projection.options.Partitions > 1 {
		return fmt.Errorf("projection %s: %w: a subscription, or a projection with several partitions, cannot be kept inline",
			ref.Name, ErrRefused)
	}
	if !o.db.log.local() {
		return fmt.Errorf("projection %s: %w: its log is not in this database, so that appends cannot keep it", ref.Name, ErrRefused)
	}
	id := v.projection.id()
	armed, err := o.db.catalog.ArmInline(ctx, o.db.pool, id)
	if err != nil {
		return fmt.Errorf("start projection %s inline: %w", ref.Name, err)
	}
	if armed {
		defer func() {
			if err != nil { // writers that do not know the projection may append its events again
				err = errors.Join(err, o.db.catalog.DisarmInline(context.WithoutCancel(ctx), o.db.pool, id))
			}
		}()
	}
	if err := o.db.awaitAppends(ctx); err != nil {
		return fmt.Errorf("start projection %s inline: %w", ref.Name, err)
	}
	return patiently(ctx, func(patience time.Duration) error {
		end, err := o.db.catalog.LogEnd(ctx, o.db.pool)
		if err == nil { // appends continue until the runner is nearly at the end of the log
			err = v.awaitRunner(ctx, o.db.pool, end, time.Time{})
		}
		if isNothing(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("start projection %s inline: %w", ref.Name, err)
		}
		return v.takeInline(ctx, patience)
	})
}

// awaitAppends returns when all appends that are open now have ended.
func (d *database) awaitAppends(ctx context.Context) error {
	var before map[string]bool
	for {
		ids, err := d.catalog.Appending(ctx, d.pool)
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
		if err := pause.Sleep(ctx, askAfter); err != nil {
			return fmt.Errorf("appends that began before StartInline are still open: %w", err)
		}
	}
}

// patiently repeats an attempt that stops appends, each time with more patience. After each attempt, appends run for
// the same length of time.
func patiently(ctx context.Context, try func(patience time.Duration) error) error {
	for patience := switchTime; ; patience = min(2*patience, maxSwitchTime) {
		err := try(patience)
		if !errors.Is(err, errBehind) && !pgerr.Is(err, pgerr.LockNotAvailable, pgerr.Deadlock) {
			return err
		}
		if done := pause.Sleep(ctx, patience); done != nil {
			return fmt.Errorf("%w: %w", err, done)
		}
	}
}

// exclude makes all appends through stores with Config.Inline wait until the transaction ends.
func (v *deployment) exclude(ctx context.Context, tx pgx.Tx, patience time.Duration) error {
	// Each statement must see everything that was committed before it.
	_, err := tx.Exec(ctx, fmt.Sprintf(
		`set transaction isolation level read committed; set local lock_timeout = %d`, patience.Milliseconds()))
	if err == nil {
		err = v.engine.catalog.ExcludeAppends(ctx, tx)
	}
	return err
}

// takeInline gives the projection to the appends when the runner is at the end of the log. The runner can get there
// because appends wait. It must get there before the transaction locks its partition.
func (v *deployment) takeInline(ctx context.Context, patience time.Duration) error {
	deadline := time.Now().Add(patience)
	take := func(tx pgx.Tx) (map[string]any, error) {
		if err := v.mayBeInline(ctx, tx, math.MaxInt64); err != nil {
			return nil, err
		}
		end, err := v.engine.catalog.LogEnd(ctx, tx)
		if err != nil {
			return nil, err
		}
		return map[string]any{"position": end}, v.engine.catalog.SetInline(ctx, tx, v.projection.id(), end)
	}
	err := v.engine.db.operate(ctx, "start inline", v.projection.id(), take, func(tx pgx.Tx) error {
		if err := v.exclude(ctx, tx, patience); err != nil {
			return err
		}
		return v.awaitRunner(ctx, tx, math.MaxInt64, deadline)
	})
	if !isNothing(err) {
		return err
	}
	return nil
}

// errBehind means that the runner has not handled all events yet.
var errBehind = errors.New("the runner is not at the end of the log yet")

// awaitRunner returns nil when the runner has handled all events up to a position. It returns errBehind if the runner
// has not done so at the deadline. A zero deadline means that there is no deadline.
func (v *deployment) awaitRunner(
	ctx context.Context, db catalog.DB, end eventstore.Position, deadline time.Time,
) error {
	for {
		err := v.mayBeInline(ctx, db, end)
		if !errors.Is(err, errBehind) || !deadline.IsZero() && time.Now().After(deadline) {
			return err
		}
		if done := pause.Sleep(ctx, askAfter/2); done != nil {
			return fmt.Errorf("%w: %w", err, done)
		}
	}
}

// mayBeInline returns nil if appends may keep the projection after the position end, and otherwise the reason. It
// returns errNothing if appends keep the projection already.
func (v *deployment) mayBeInline(ctx context.Context, db catalog.DB, end eventstore.Position) error {
	s, err := v.engine.catalog.InlineState(ctx, db, v.projection.id(), end)
	switch {
	case err != nil:
		return err
	case s.Inline == nil:
		return fmt.Errorf("%w: StopInline was called at the same time", ErrRefused)
	case *s.Inline >= 0:
		return errNothing
	case s.Parked > 0 || s.Phase != catalog.Live || s.State != catalog.Running:
		return fmt.Errorf("%w: it is %s and %s, and has %d dead letters", ErrRefused, s.Phase, s.State, s.Parked)
	case !v.covers(s.Types): // writers of this release may not keep it either
		return fmt.Errorf("%w: a newer release handles more event types than this one", ErrRefused)
	case s.Behind:
		return errBehind
	}
	return nil
}

// StopInline gives a projection that appends keep, or will keep, back to the runner. Appends wait during the hand-over,
// as for [RunnerOperator.StartInline].
func (o *RunnerOperator) StopInline(ctx context.Context, ref Ref) error {
	v, err := o.find(ctx, "stop inline", ref)
	if err != nil {
		return err
	}
	return patiently(ctx, func(patience time.Duration) error { return v.endInline(ctx, patience) })
}

func (v *deployment) endInline(ctx context.Context, patience time.Duration) error {
	end := func(tx pgx.Tx) (map[string]any, error) {
		// No open append keeps the projection now: all of its events that are stored are in the read model.
		last, err := v.engine.catalog.LogEnd(ctx, tx)
		if err != nil {
			return nil, err
		}
		ended, err := v.engine.catalog.EndInline(ctx, tx, v.projection.id(), last)
		if err == nil && !ended {
			err = errNothing
		}
		return map[string]any{"position": last}, err
	}
	exclude := func(tx pgx.Tx) error { return v.exclude(ctx, tx, patience) }
	if err := v.engine.db.operate(ctx, "stop inline", v.projection.id(), end, exclude); !isNothing(err) {
		return err
	}
	return nil
}
