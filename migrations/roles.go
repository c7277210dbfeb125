package migrations

import (
	"context"
	_ "embed"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/internal/pgschema"
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
		names := make(map[string]string)
		for suffix, name := range map[string]string{"_app": roles.App, "_operator": roles.Operator} {
			if name == "" {
				name = m.schema + suffix
			}
			if strings.ContainsAny(name, "'\\\x00") || len(name) > 63 {
				return fmt.Errorf("migrations: create roles: the name %q has more than 63 bytes, or a quote in it", name)
			}
			names[suffix] = name
		}
		if names["_app"] == names["_operator"] {
			return fmt.Errorf("migrations: create roles: both are called %q: services could do what operators may", names["_app"])
		}
		quoted := func(name string) string { return pgx.Identifier{name}.Sanitize() }
		sql := strings.NewReplacer(
			"'tidemark_app'", "'"+quoted(names["_app"])+"'",
			"'tidemark_operator'", "'"+quoted(names["_operator"])+"'",
			"tidemark_app", quoted(names["_app"]),
			"tidemark_operator", quoted(names["_operator"]),
			"tidemark.", pgschema.Quote(m.schema)+".",
			"schema tidemark", "schema "+pgschema.Quote(m.schema),
		).Replace(RolesSQL)
		if _, err := m.conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("migrations: create roles %s and %s: %w", names["_app"], names["_operator"], err)
		}
		return nil
	})
}
