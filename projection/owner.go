package projection

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// TakenError says that the name of a projection's table is taken. Nothing was changed.
type TakenError struct {
	Projection string // that asked for the table
	Owner      string // the projection whose table it is; "" if no projection of the schema has made it
	Table      string
}

func (e *TakenError) Error() string {
	if e.Owner == "" {
		return fmt.Sprintf("projection %s: there is a table, view or index %q that no projection of this schema has made: "+
			"give the projection's table another name, or rename or drop what is there", e.Projection, e.Table)
	}
	return fmt.Sprintf("projection %s: table %s is that of projection %s: give the table another name, or, if nothing runs that projection any more, call Operator.Drop for it",
		e.Projection, e.Table, e.Owner)
}

// kind says how the events of a projection are written.
func (p *Projection) kind() string {
	switch {
	case p.effects:
		return "effects"
	case p.table != nil:
		return "folds into a table"
	}
	return "handlers"
}

// claimTables returns a [TakenError] when a table of a version is that of another projection, under whatever name, or is
// the application's own.
func (v *deployment) claimTables(ctx context.Context, tx pgx.Tx) error {
	if len(v.projection.options.Tables) == 0 {
		return nil
	}
	if err := v.engine.catalog.LockTables(ctx, tx); err != nil {
		return err
	}
	claims, err := v.engine.catalog.OthersTables(ctx, tx, v.projection.name)
	if err != nil {
		return err
	}
	for _, table := range v.projection.options.Tables {
		for _, c := range claims {
			var same bool // whatever schema the names are looked up in
			if err := tx.QueryRow(ctx, `select coalesce(to_regclass($1) = to_regclass($2), false)`, quote(table), quote(c.Table)).Scan(&same); err != nil {
				return err
			}
			if same || table == c.Table {
				return &TakenError{Projection: v.projection.name, Owner: c.Projection, Table: table}
			}
		}
		if _, other, err := v.engine.db.readersView(ctx, tx, table); err != nil {
			return err
		} else if other {
			return &TakenError{Projection: v.projection.name, Table: table}
		}
	}
	return nil
}

// identified is a log that knows which store it is.
type identified interface {
	Identity(context.Context) (uuid.UUID, error)
}

// checkStore returns an error when the runner's tables are not in the store of its log: it would wait there for
// events that are stored elsewhere.
func (r *Runner) checkStore(ctx context.Context) error {
	log, ok := r.engine.log.(identified)
	if !ok {
		return nil
	}
	want, err := log.Identity(ctx)
	if err != nil {
		return err
	}
	have, err := r.engine.catalog.StoreID(ctx, r.engine.pool)
	if err != nil {
		return fmt.Errorf("projection: read which store schema %s is: %w", r.engine.catalog.Schema(), err)
	}
	if have != want {
		return fmt.Errorf("projection: the runner's pool and schema %s are those of store %s, and its log is that of store %s: "+
			"give the runner the pool and the schema of the log", r.engine.catalog.Schema(), have, want)
	}
	return nil
}
