package eventstore

import (
	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/internal/pgschema"
)

// WasLost is wasLost for an error from the server.
func WasLost(err error) bool { return wasLost(err, (*pgx.Conn)(nil)) }

// CorrelatedSQL is the statement of [Store.Correlated].
var CorrelatedSQL = pgschema.In(pgschema.Default, correlatedSQL)
