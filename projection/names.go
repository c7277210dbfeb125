package projection

import (
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// tableNames replaces the names in braces in a statement by the names of this version's tables, see [Options.Tables].
type tableNames struct {
	tables  []string
	version int
	braces  *strings.Replacer
}

func newTableNames(tables []string, version int) *tableNames {
	var pairs []string
	for _, t := range tables {
		pairs = append(pairs, "{"+t+"}", physical(t, version))
	}
	return &tableNames{tables, version, strings.NewReplacer(pairs...)}
}

// sql returns statements with the names of this version's tables in place of the names in braces.
func (n *tableNames) sql(statements string) string { return n.braces.Replace(statements) }

// identifier is sql for the name of a table on its own, outside a statement.
func (n *tableNames) identifier(table pgx.Identifier) pgx.Identifier {
	for _, t := range n.tables {
		if len(table) == 1 && table[0] == "{"+t+"}" {
			return identifier(t, n.version)
		}
	}
	return table
}

// physical returns the quoted name of a table of one version.
func physical(table string, version int) string { return identifier(table, version).Sanitize() }

func identifier(table string, version int) pgx.Identifier {
	return strings.Split(fmt.Sprintf("%s_v%d", table, version), ".")
}

func quote(table string) string { return pgx.Identifier(strings.Split(table, ".")).Sanitize() }
