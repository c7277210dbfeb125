package projection

import (
	"github.com/google/uuid"

	"github.com/tidemark-es/tidemark/internal/pgschema"
)

// sql puts the store's schema into a statement.
func (e *engine) sql(statement string) string {
	if text, ok := e.statements.Load(statement); ok {
		return text.(string)
	}
	text := pgschema.In(e.schema, statement)
	e.statements.Store(statement, text)
	return text
}

// nullID returns what a statement takes as an id that may be unknown.
func nullID(id uuid.UUID) *uuid.UUID {
	if id == uuid.Nil {
		return nil
	}
	return &id
}

// Whatever the owner of a partition remembers holds as long as its fencing token is the same. Who
// changes anything adds one: then what is under way cannot be committed any more. In the order of
// partitions, so that two who do this cannot deadlock.
const fenceSQL = `
update SCHEMA.projection_partitions p
   set fencing_token = fencing_token + 1
  from (select projection, version, partition
          from SCHEMA.projection_partitions
         where projection = $1
           and ($2 = 0 or version = $2)
         order by version, partition
           for update) locked
 where (p.projection, p.version, p.partition) = (locked.projection, locked.version, locked.partition)`

const auditSQL = `
insert into SCHEMA.projection_audit (projection, version, action, actor, details)
values ($1, $2, $3, coalesce(nullif($4, ''), session_user), $5)`
