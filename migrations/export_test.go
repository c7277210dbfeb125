package migrations

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// Compared returns what the files make in the default schema, and what is there, by the names of the objects.
func Compared(ctx context.Context, conn *pgx.Conn) (want, have map[string][2]string, err error) {
	m, err := newMigrator(nil)
	if err != nil {
		return nil, nil, err
	}
	m.conn = conn
	there, err := m.there(ctx)
	return pairs(wanted(m.steps)), pairs(there), err
}

func pairs(o objects) map[string][2]string {
	found := make(map[string][2]string, len(o))
	for name, d := range o {
		found[name] = [2]string{d.text, d.body}
	}
	return found
}

// LockProblem is what is wrong with advisory locks, judged by what a second session sees of a shared one.
func LockProblem(seen, excluded, shared, stillSeen, freed bool) string {
	return lockProbe{seen, excluded, shared, stillSeen, freed}.problem()
}

// SequenceProblem is the same of a sequence, judged by what a second session reads.
func SequenceProblem(uncommitted, rolledBack int64) string {
	return sequenceProbe{uncommitted, rolledBack}.problem()
}
