// Package pgschema puts the name of the store's schema into SQL.
package pgschema

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Default is the schema of a store, unless the configuration names another one.
const Default = "tidemark"

var valid = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}$`)

// Name returns the schema's name, and the default for an empty one. The error says what is wrong with the name.
func Name(schema string) (string, error) {
	switch {
	case schema == "":
		return Default, nil
	case !valid.MatchString(schema):
		return "", fmt.Errorf("schema %q: use up to 63 lower-case letters, digits and underscores", schema)
	case strings.HasPrefix(schema, "pg_") || schema == "information_schema":
		return "", fmt.Errorf("schema %q belongs to Postgres", schema)
	}
	return schema, nil
}

// Quote returns a valid name, quoted for SQL.
func Quote(schema string) string { return pgx.Identifier{schema}.Sanitize() }

// In replaces each "SCHEMA." of a statement by the name of the schema.
func In(schema, sql string) string { return strings.ReplaceAll(sql, "SCHEMA.", Quote(schema)+".") }
