package eventstore

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

const identitySQL = `
select id
  from SCHEMA.store`

// Identity returns the id of the store in the database, which the migration has made at random. The id stays the same
// through a failover, a dump and restore, and a copy of the files, so copies of a store share it. Identity reads the
// database each time, because the database behind a connection string may be replaced.
func (s *Store) Identity(ctx context.Context) (uuid.UUID, error) {
	rows, err := s.db.Query(ctx, s.sql.identity)
	if err != nil {
		return uuid.UUID{}, translate(err, "read the identity of the store")
	}
	id, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[[16]byte])
	if err != nil {
		return uuid.UUID{}, translate(err, "read the identity of the store")
	}
	return id, nil
}
