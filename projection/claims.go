package projection

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// TakenError says that the name of a projection's table is in use. Nothing was changed.
type TakenError struct {
	Projection string // the projection that asked for the table
	Owner      string // the projection that has the table; "" if no projection of the schema has made it
	Table      string
}

// Error names the projection and the table, and says what to do.
func (e *TakenError) Error() string {
	if e.Owner == "" {
		return fmt.Sprintf("projection %s: there is a table, view or index %q that no projection of this schema has made: "+
			"give the projection's table another name, or rename or drop the existing object", e.Projection, e.Table)
	}
	return fmt.Sprintf("projection %s: table %s is that of projection %s: give the table another name, or, if nothing runs that projection any more, call Operator.Drop for it",
		e.Projection, e.Table, e.Owner)
}

// kind returns how the events of a projection are written.
func (p *Projection) kind() string {
	switch {
	case p.effects:
		return "effects"
	case p.table != nil:
		return "folds into a table"
	}
	return "handlers"
}

// claimTables returns a [TakenError] when a table of a version belongs to another projection, under whatever name, or
// to the application.
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
			var same bool // the same table, possibly named with and without its schema
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
