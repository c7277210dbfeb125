// Package pgerr is the one place that knows SQLSTATEs.
package pgerr

import (
	"errors"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"
)

// The SQLSTATEs that we act on. Our own functions raise those of class TM.
const (
	Conflict        = "TM001"
	InvalidArgument = "TM002"
	Immutable       = "TM003"
	KeyReused       = "TM004"
	NoTidemark      = "TM005"
	Fenced          = "TM006"
	HalfBatch       = "TM007"
	UnknownInline   = "TM008"
	ReadersView     = "TM009"
	SequenceBehind  = "TM010"
	Unproven        = "TM011"
	Diverged        = "TM012"

	UniqueViolation      = "23505"
	ForeignKeyViolation  = "23503"
	ExclusionViolation   = "23P01"
	SerializationFailure = "40001"
	Deadlock             = "40P01"
	LockNotAvailable     = "55P03"
	FailedTransaction    = "25P02"
	SyntaxError          = "42601"
	IdleInTransaction    = "25P03"
	Canceled             = "57014"
	TooManyConnections   = "53300"
	undefinedTable       = "42P01"
	undefinedFunction    = "42883"
	invalidSchemaName    = "3F000"
	duplicateTable       = "42P07"
	duplicateFunction    = "42723"
	duplicateObject      = "42710"
	// InvalidTableDefinition is the error of a statement that replaces a view by one with other columns.
	InvalidTableDefinition = "42P16"

	InsufficientPrivilege = "42501"
)

// Is reports whether err comes from Postgres with one of the given SQLSTATEs.
func Is(err error, codes ...string) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && slices.Contains(codes, e.Code)
}

// NotMigrated reports whether err says that the store's tables or functions do not exist.
func NotMigrated(err error) bool {
	return Is(err, undefinedTable, undefinedFunction, invalidSchemaName)
}

// Duplicate reports whether err says that something could not be created because its name is taken.
func Duplicate(err error) bool {
	return Is(err, duplicateTable, duplicateFunction, duplicateObject)
}

// MayPass reports whether the same operation may work later: the connection was lost or refused, or the server is
// starting, stopping, or has no room at the moment. For an error that the server has sent the class decides: 08
// connection, 40 rollback, 53 resources, 57 operator intervention, 58 system. Every other error may pass.
func MayPass(err error) bool {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return len(e.Code) == 5 && slices.Contains([]string{"08", "40", "53", "57", "58"}, e.Code[:2])
	}
	return true
}

// Constraint returns the name of the constraint that err violates, or "".
func Constraint(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.ConstraintName
	}
	return ""
}

// Detail returns the detail of an error from Postgres, or "".
func Detail(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Detail
	}
	return ""
}

// Hint returns the hint of an error from Postgres, or "".
func Hint(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Hint
	}
	return ""
}
