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

// RolesSQL is the file roles/roles.sql. Use it to run the file without [CreateRoles].
//
//go:embed roles/roles.sql
var RolesSQL string

// Roles has the names of a store's roles. Roles belong to the whole server, not to one database. An empty name means
// the schema's name followed by "_app" or "_operator".
type Roles struct {
	App      string
	Operator string
}

// CreateRoles creates the missing roles of a store, and gives both exactly the rights that roles/roles.sql describes.
// Services append through functions, read, and cannot change an event. Operators can also purge idempotency keys, and
// start and stop keeping projections inline. Neither role can log in: grant them to roles that can.
//
// Call CreateRoles after [Up], as the owner of the schema and with the right to create roles. It can be called again.
func CreateRoles(ctx context.Context, pool *pgxpool.Pool, config *Config, roles Roles) error {
	return locked(ctx, pool, config, func(m *migrator) error {
		app, operator := cmp.Or(roles.App, m.schema+"_app"), cmp.Or(roles.Operator, m.schema+"_operator")
		for _, name := range []string{app, operator} {
			if strings.ContainsAny(name, "'\\\x00") || len(name) > 63 {
				return fmt.Errorf("migrations: create roles: the name %q has more than 63 bytes, or a quote in it", name)
			}
		}
		if app == operator {
			return fmt.Errorf("migrations: create roles: both are called %q: services would have the rights of operators", app)
		}
		named := strings.NewReplacer(
			"tidemark_app", pgx.Identifier{app}.Sanitize(),
			"tidemark_operator", pgx.Identifier{operator}.Sanitize(),
		)
		return m.apply(ctx, "roles/roles.sql", named.Replace(inSchema(RolesSQL, m.schema)))
	})
}
