package pgerr

import (
	"errors"

	"github.com/jackc/pgx/v5/pgconn"
)

// Kind says what an error of Postgres is about, whatever statement caused it.
type Kind int

const (
	// Unclear errors may be about the statement, its values or the application's own code.
	Unclear Kind = iota
	// Environment errors concern every statement alike: the connection, the server, its resources, settings, locks of
	// other sessions, a pooler. The same statement with the same values may work later.
	Environment
	// Data errors say that a value was refused: the same statement with the same values fails again.
	Data
	// Objects errors say that a table, a column, a key or a right is missing: nothing works until an operator has
	// repaired it.
	Objects
)

// classes has the classes of SQLSTATEs as Postgres documents them in its appendix A. The classes that are not in it are
// Unclear: 03, 0B, 0F, 0L, 0P, 0Z, 09, 20, 24, 2D, 2F, 34, 38, 39, 3B, 42, 54, P0, and those that extensions define.
var classes = map[string]Kind{
	"08": Environment, // connection exception
	"0A": Environment, // feature not supported: such as a cached plan whose result type has changed
	"25": Environment, // invalid transaction state: read-only, idle for too long
	"26": Environment, // invalid statement name: a pooler has changed the connection since the statement was prepared
	"28": Environment, // invalid authorization
	"2B": Environment, // dependent privilege descriptors still exist
	"3D": Environment, // invalid catalog name: no such database
	"40": Environment, // transaction rollback: deadlock, serialization
	"53": Environment, // insufficient resources
	"55": Environment, // object not in prerequisite state: locks, no replica identity
	"57": Environment, // operator intervention: shutdown, cancelled, statement timeout
	"58": Environment, // system error
	"72": Environment, // snapshot too old
	"F0": Environment, // configuration file error
	"HV": Environment, // foreign data wrapper
	"XX": Environment, // internal error

	"21": Data, // cardinality violation
	"22": Data, // data exception
	"23": Data, // integrity constraint violation
	"27": Data, // triggered data change violation
	"44": Data, // WITH CHECK OPTION violation

	"3F": Objects, // invalid schema name
}

// codes has the SQLSTATEs whose kind is not that of their class.
var codes = map[string]Kind{
	FailedTransaction: Unclear, // an earlier statement says why

	"42P05": Environment, // duplicate prepared statement: a pooler in another mode than the pool

	"42501": Objects, // insufficient privilege
	"42703": Objects, // undefined column
	"42P01": Objects, // undefined table
	"42P10": Objects, // invalid column reference: ON CONFLICT without a unique key

	NoTidemark:     Environment,
	UnknownInline:  Environment,
	SequenceBehind: Environment,
	Diverged:       Environment,
	Unproven:       Environment,
	HalfBatch:      Unclear,
	ReadersView:    Unclear, // package projection knows this one
}

// KindOf returns what an error is about. It is Unclear for an error that Postgres has not sent.
func KindOf(err error) Kind {
	var e *pgconn.PgError
	if !errors.As(err, &e) || len(e.Code) != 5 {
		return Unclear
	}
	if kind, ok := codes[e.Code]; ok {
		return kind
	}
	return classes[e.Code[:2]]
}
