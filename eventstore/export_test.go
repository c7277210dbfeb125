package eventstore

import "github.com/jackc/pgx/v5"

// WasLost is wasLost for an error from the server.
func WasLost(err error) bool { return wasLost(err, (*pgx.Conn)(nil)) }
