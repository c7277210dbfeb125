package projection

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/isnil"
	"github.com/tidemark-es/tidemark/internal/pgschema"
	"github.com/tidemark-es/tidemark/projection/internal/catalog"
)

// Ref names a projection at a version. The version is a number from 1 on, [Live], or [AllVersions] where a method says
// so. A Ref without a version names nothing: an operator must say which version is meant.
type Ref struct {
	Name    string
	Version int
}

// Versions that a [Ref] can have beside numbers.
const (
	Live        = -1 // the version that readers see
	AllVersions = -2 // every version of the name
)

// String returns the name and the version, such as "balances, version 2".
func (r Ref) String() string {
	switch r.Version {
	case Live:
		return r.Name + ", the live version"
	case AllVersions:
		return r.Name + ", all versions"
	}
	return fmt.Sprintf("%s, version %d", r.Name, r.Version)
}

// Operator does the operations on projections that need no code of the projections. A command line or a console can use
// it beside the services that run them. Its methods may be called from any goroutine. Each method that changes a
// projection records the change in the audit. The actor is that of the context's metadata, see
// [eventstore.WithMetadata], or else the role of Postgres.
//
// A [RunnerOperator] can do more.
type Operator struct {
	db      *database
	monitor *monitor
}

// OperatorConfig adjusts an [Operator]. Nil and the zero value are the defaults.
type OperatorConfig struct {
	// Log is the log that the projections follow; nil means the event store of the same schema.
	Log Log
	// Schema, Lease, StallLag, StallAfter and Logger are like the fields of [Config].
	Schema     string
	Lease      time.Duration
	StallLag   int64
	StallAfter time.Duration
	Logger     *slog.Logger
}

// NewOperator returns an operator of the projections in a schema. The role of the pool needs the rights of an operator,
// see migrations.CreateRoles.
func NewOperator(pool *pgxpool.Pool, config *OperatorConfig) (*Operator, error) {
	if pool == nil {
		return nil, errors.New("projection.NewOperator: the pool is nil: pass one that pgxpool.New returned without an error")
	}
	var own OperatorConfig
	if config != nil {
		own = *config
	}
	whole := &Config{Schema: own.Schema, Lease: own.Lease, StallLag: own.StallLag, StallAfter: own.StallAfter, Logger: own.Logger}
	c := whole.withDefaults(pool)
	schema, err := pgschema.Name(c.Schema)
	if err == nil {
		err = c.validate()
	}
	if err == nil && own.Log == nil {
		own.Log, err = eventstore.New(pool, &eventstore.Config{Schema: schema, PollOnly: true, Logger: c.Logger})
	}
	if err == nil && isnil.Any(own.Log) {
		err = fmt.Errorf("OperatorConfig.Log holds a nil %T: leave the field out, or pass the log that the projections follow", own.Log)
	}
	if err != nil {
		return nil, fmt.Errorf("projection.NewOperator: %w", err)
	}
	db := newDatabase(pool, own.Log, schema, c)
	return &Operator{db: db, monitor: newMonitor(db, c)}, nil
}

// Status returns the status of all projections of the schema, in all their versions and processes.
func (o *Operator) Status(ctx context.Context) (Status, error) { return o.monitor.status(ctx, nil) }

// Pause halts a projection in all processes until Resume. After Pause has returned, no batch that was under way can
// commit. The reason is stored for the status and the audit. Pause takes [AllVersions] too.
func (o *Operator) Pause(ctx context.Context, ref Ref, reason string) error {
	return o.setState(ctx, ref, "pause", catalog.Paused, reason)
}

// Stop is Pause for a projection that has a fault: the status of a stopped projection is not healthy.
func (o *Operator) Stop(ctx context.Context, ref Ref, reason string) error {
	return o.setState(ctx, ref, "stop", catalog.Stopped, reason)
}

// Resume lets a projection continue that was paused or has stopped. Resume takes [AllVersions] too.
func (o *Operator) Resume(ctx context.Context, ref Ref) error {
	return o.setState(ctx, ref, "resume", catalog.Running, "")
}

func (o *Operator) setState(ctx context.Context, ref Ref, action, state, reason string) error {
	if ref.Version < 1 && ref.Version != Live && ref.Version != AllVersions {
		return refuseVersion(action, ref, "a number from 1 on, Live or AllVersions")
	}
	if ref.Version == AllVersions {
		return o.setStateOf(ctx, ref, catalog.ID{Name: ref.Name}, action, state, reason) // version 0 means all versions
	}
	return untilUnchanged(ctx, func() error {
		id, err := o.find(ctx, action, ref)
		if err != nil {
			return err
		}
		return o.setStateOf(ctx, ref, id, action, state, reason)
	})
}

func (o *Operator) setStateOf(ctx context.Context, ref Ref, id catalog.ID, action, state, reason string) error {
	return o.db.operate(ctx, action, id, func(tx pgx.Tx) (map[string]any, error) {
		if err := o.still(ctx, tx, ref, id); err != nil {
			return nil, err
		}
		if state != catalog.Running {
			if err := o.db.refuseInline(ctx, tx, id); err != nil {
				return nil, err
			}
		}
		found, err := o.db.catalog.SetState(ctx, tx, id, state, reason)
		if err == nil && !found {
			err = ErrUnknownProjection
		}
		if err == nil && state == catalog.Running {
			err = o.db.catalog.ClearErrors(ctx, tx, id)
		}
		return map[string]any{"reason": reason}, err
	})
}

// still returns errChanged if a reference to the live version now names another version than the one that find
// returned. The caller has locked the versions.
func (o *Operator) still(ctx context.Context, tx pgx.Tx, ref Ref, id catalog.ID) error {
	if ref.Version != Live {
		return nil
	}
	live, err := o.db.catalog.LiveVersion(ctx, tx, id.Name)
	if err == nil && live != id.Version {
		err = errChanged
	}
	return err
}

// untilUnchanged calls do again while another version becomes the live one during the call.
func untilUnchanged(ctx context.Context, do func() error) error {
	for {
		if err := do(); !errors.Is(err, errChanged) || ctx.Err() != nil {
			return err
		}
	}
}

// find returns the stored version that a reference names.
func (o *Operator) find(ctx context.Context, action string, ref Ref) (catalog.ID, error) {
	id := catalog.ID{Name: ref.Name, Version: ref.Version}
	var err error
	switch {
	case ref.Version == Live:
		id.Version, err = o.db.catalog.LiveVersion(ctx, o.db.pool, ref.Name)
	case ref.Version < 1:
		return id, refuseVersion(action, ref, "a number from 1 on or Live")
	default:
		_, err = o.db.catalog.Phase(ctx, o.db.pool, id)
	}
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrUnknownProjection
	}
	if err != nil {
		return id, fmt.Errorf("%s: projection %s: %w", action, ref, err)
	}
	return id, nil
}

// numbered returns the version that a reference names by its number.
func numbered(action string, ref Ref) (catalog.ID, error) {
	if ref.Version < 1 {
		return catalog.ID{}, refuseVersion(action, ref, "a number from 1 on")
	}
	return catalog.ID{Name: ref.Name, Version: ref.Version}, nil
}

// refuseVersion returns the error of a method that does not take the version of a reference.
func refuseVersion(action string, ref Ref, want string) error {
	have := fmt.Sprint(ref.Version)
	switch ref.Version {
	case 0:
		have = "not given"
	case Live:
		have = "Live"
	case AllVersions:
		have = "AllVersions"
	}
	return invalid("%s: projection %s: Ref.Version is %s: want %s", action, ref.Name, have, want)
}

// invalid returns the error for an argument that is not acceptable. Nothing was done.
func invalid(format string, args ...any) error {
	return &eventstore.InvalidError{Reason: "projection: " + fmt.Sprintf(format, args...)}
}
