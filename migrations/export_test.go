package migrations

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// Compared returns the objects that the files make in the default schema, and the objects that are there, by their
// names.
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

// LockProblem says what is wrong with advisory locks, given what a second session sees of a shared lock.
func LockProblem(seen, excluded, shared, stillSeen, freed bool) string {
	return lockProbe{seen, excluded, shared, stillSeen, freed}.problem()
}

// SequenceProblem says what is wrong with a sequence, given the values that a second session reads.
func SequenceProblem(uncommitted, rolledBack int64) string {
	return sequenceProbe{uncommitted, rolledBack}.problem()
}
