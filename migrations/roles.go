package migrations

import (
	"cmp"
	"context"
	_ "embed"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// RolesSQL is the file roles/roles.sql, for those who would rather run it themselves.
//
//go:embed roles/roles.sql
var RolesSQL string

// Roles names the roles of a store. They belong to the whole server, not to one database. Empty
// names are the schema's followed by "_app" and "_operator".
type Roles struct {
	App      string
	Operator string
}

// CreateRoles creates the roles of a store, as far as they are missing, and gives them exactly the
// rights that roles/roles.sql describes: services append through functions and read, but cannot touch
// an event; operators can purge idempotency keys as well. Neither can log in: grant them to roles that
// do. Call it after [Up], as the owner of the schema and with the right to create roles; it can be
// called again.
func CreateRoles(ctx context.Context, pool *pgxpool.Pool, config *Config, roles Roles) error {
	return locked(ctx, pool, config, func(m *migrator) error {
		app, operator := cmp.Or(roles.App, m.schema+"_app"), cmp.Or(roles.Operator, m.schema+"_operator")
		for _, name := range []string{app, operator} {
			if strings.ContainsAny(name, "'\\\x00") || len(name) > 63 {
				return fmt.Errorf("migrations: create roles: the name %q has more than 63 bytes, or a quote in it", name)
			}
		}
		if app == operator {
			return fmt.Errorf("migrations: create roles: both are called %q: services could do what operators may", app)
		}
		named := strings.NewReplacer(
			"tidemark_app", pgx.Identifier{app}.Sanitize(),
			"tidemark_operator", pgx.Identifier{operator}.Sanitize(),
		)
		return m.apply(ctx, "roles/roles.sql", named.Replace(inSchema(RolesSQL, m.schema)))
	})
}
