package pgerr

import (
	"context"
	"errors"
	"io"

	"github.com/jackc/pgx/v5/pgconn"
)

// Unavailable reports whether Postgres cannot be used at the moment, for a reason that does not depend on the
// statement: it is away, starting, stopping, read-only, without room, or the connection was lost.
func Unavailable(err error) bool {
	var connecting *pgconn.ConnectError
	var e *pgconn.PgError
	switch {
	case errors.As(err, &connecting):
		return true
	case errors.As(err, &e):
		return KindOf(err) == Environment
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return false // the caller's own bound
	}
	return Network(err) || TimedOut(err) || errors.Is(err, io.ErrUnexpectedEOF) || pgconn.SafeToRetry(err)
}

// NothingDone reports whether err proves that its statement had no effect: the statement was not sent, or Postgres has
// refused it.
func NothingDone(err error) bool {
	var connecting *pgconn.ConnectError
	var e *pgconn.PgError
	var sure interface{ NothingDone() bool }
	if errors.As(err, &sure) {
		return sure.NothingDone()
	}
	if errors.As(err, &e) {
		return e.SeverityUnlocalized == "ERROR" || errors.As(err, &connecting)
	}
	return errors.As(err, &connecting) || pgconn.SafeToRetry(err)
}
