// Package pgschema puts the name of the store's schema into SQL.
package pgschema

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Default is the schema a store lives in unless the configuration says otherwise.
const Default = "tidemark"

var valid = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}$`)

// Name returns the schema's name, which is the default if it is empty, or an error saying what
// is wrong with it.
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

// Quote returns a valid name as SQL wants it.
func Quote(schema string) string { return pgx.Identifier{schema}.Sanitize() }

// In puts the schema where a statement says SCHEMA.
func In(schema, sql string) string { return strings.ReplaceAll(sql, "SCHEMA.", Quote(schema)+".") }
