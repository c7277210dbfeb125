package projection

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/internal/pgerr"
)

// showTables makes the views for readers show the tables of a version. The rights on the views stay.
func (d *database) showTables(ctx context.Context, tx pgx.Tx, tables []string, version int) error {
	for _, t := range tables {
		if err := d.showTable(ctx, tx, quote(t), physical(t, version)); err != nil {
			return fmt.Errorf("let %s show version %d: %w", t, version, err)
		}
	}
	return nil
}

// switchTables is showTables with a lock timeout of 50 ms. Replacing a view needs an exclusive lock, and while the
// switch waits behind a long query, every new query waits behind the switch.
func (d *database) switchTables(ctx context.Context, tx pgx.Tx, tables []string, version int) error {
	if _, err := tx.Exec(ctx, `set local lock_timeout = '50ms'`); err != nil {
		return err
	}
	if err := d.showTables(ctx, tx, tables, version); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `set local lock_timeout = 0`)
	return err
}

// rehearse switches the tables in a savepoint and rolls it back. An obstacle is found before the live version is held.
func (d *database) rehearse(ctx context.Context, tx pgx.Tx, tables []string, version int) error {
	savepoint, err := tx.Begin(ctx)
	if err != nil {
		return err
	}
	return errors.Join(d.switchTables(ctx, savepoint, tables, version), savepoint.Rollback(ctx))
}

const readersViewSQL = `
select exists (
       select
         from pg_trigger t
         join pg_proc p on p.oid = t.tgfoid
         join pg_namespace n on n.oid = p.pronamespace
        where t.tgrelid = c.oid
          and t.tgname = 'readers'
          and p.proname = 'refuse_view_change'
          and n.nspname = $2)
  from pg_class c
 where c.oid = to_regclass($1)
   and ($3 or c.relnamespace = current_schema()::regnamespace)`

// readersView reports whether the view for readers of a table exists (made), or another object has its name (other). It
// looks in the schema in which the view would be made.
func (d *database) readersView(ctx context.Context, tx pgx.Tx, table string) (made, other bool, err error) {
	err = tx.QueryRow(ctx, readersViewSQL, quote(table), d.catalog.Schema(), strings.Contains(table, ".")).Scan(&made)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, false, nil
	}
	return made, !made, err
}

// grantsSQL makes the statements that grant the rights on a view again.
const grantsSQL = `
select coalesce(string_agg(format('grant %s on %s to %s', a.privilege_type, c.oid::regclass,
                                  case a.grantee
                                  when 0 then 'public'
                                  else quote_ident(pg_get_userbyid(a.grantee))
                                  end ||
                                  case when a.is_grantable then ' with grant option' else '' end), '; '), '')
  from pg_class c,
       aclexplode(c.relacl) a
 where c.oid = to_regclass($1)
   and a.grantee <> c.relowner`

func (d *database) showTable(ctx context.Context, tx pgx.Tx, view, table string) error {
	savepoint, err := tx.Begin(ctx)
	if err != nil {
		return err
	}
	// The trigger refuses writes through the view. In the first version a handler that names the view would otherwise
	// write to the right table, and the mistake would not be noticed.
	guard := "create or replace trigger readers instead of insert or update or delete on " + view +
		" for each row execute function " + d.catalog.SQL("SCHEMA.refuse_view_change()")
	if _, err = savepoint.Exec(ctx, "create or replace view "+view+" as select * from "+table+"; "+guard); err == nil {
		return savepoint.Commit(ctx)
	}
	if rollback := savepoint.Rollback(ctx); rollback != nil || !pgerr.Is(err, pgerr.InvalidTableDefinition) {
		return err
	}
	// The columns have changed: make a new view with the rights of the old one.
	var grants string
	if err := tx.QueryRow(ctx, grantsSQL, view).Scan(&grants); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, "drop view "+view+"; create view "+view+" as select * from "+table+"; "+guard+"; "+grants)
	return err
}
