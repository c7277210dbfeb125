package pgerr

import (
	"errors"

	"github.com/jackc/pgx/v5/pgconn"
)

// ReadOnly is the SQLSTATE of a write on a server, or in a session, that takes none.
const ReadOnly = "25006"

// advice says what to do about errors whose cause is the environment, by their SQLSTATE.
var advice = map[string]string{
	InsufficientPrivilege: "the role of the connection lacks a right: as the owner of the schema, call migrations.CreateRoles after each migrations.Up, " +
		"and grant the role that it makes, such as tidemark_app, to the role of the connection",
	ReadOnly: "the server, or the session, takes no writes: connect to the primary with target_session_attrs=read-write, " +
		"and look at default_transaction_read_only",
	"42P05": pooler, // the statement exists already
	"26000": pooler, // the statement does not exist
	"08P01": pooler, // a pooler that knows no prepared statements
	"53100": "the disk of the server is full: make room, nothing else helps",
	"53200": "the server has no memory, or no entry of its lock table, left: make transactions smaller, or raise max_locks_per_transaction",
	"53300": noConnection,
	"53400": noConnection,
	"22021": encoding,
	"22P05": encoding,
	"57014": "statement_timeout has ended the statement, or an operator has: raise statement_timeout for the role of the connection",
	"28000": login,
	"28P01": login,
	"3D000": "create the database, or correct its name in the connection string",
}

const (
	pooler = "a pooler gives the statements of one client to several connections: add default_query_exec_mode=exec to the connection string, " +
		"or set pgx.QueryExecModeExec, or let the pooler keep prepared statements"
	noConnection = "the server has no connection left for the role: lower pool_max_conns in the connection strings of the application, " +
		"or raise max_connections"
	encoding = "the database must have the encoding UTF8, and so must the client: create the database with encoding 'UTF8', " +
		"and leave client_encoding out of the connection string"
	login = "the server does not let the role in: correct user and password in the connection string, or pg_hba.conf of the server"
)

// Advice returns what to do about an error whose cause is known by its SQLSTATE, or "".
func Advice(err error) string {
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		return ""
	}
	return advice[e.Code]
}
