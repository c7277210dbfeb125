// Package migrations holds the SQL of a Tidemark store and applies it.
//
// A library never migrates by itself: an application calls [Up] when it starts, or runs the
// same files with its own tool. They carry the annotations of goose and of tern:
//
//	goose -dir migrations postgres "$DATABASE_URL" up
//	tern migrate --migrations migrations
//
// Both need the default schema name, "tidemark"; only [Up] and [Down] know another one. Each
// file keeps its own row in schema_migrations, so [Validate] agrees whichever tool ran it.
//
// Up and Down hold a lock of their session: behind PgBouncer in transaction mode give them a
// direct connection.
//
// [CreateRoles] makes two roles, for services and for operators, that can use the store but not change
// what has happened. The file roles/roles.sql does the same for whoever runs the files with a tool.
//
// # Guarantees
//
//   - Each migration runs in a transaction of its own, in which it also records itself in
//     schema_migrations: it has happened wholly or not at all.
//   - Any number of processes may call Up and Down at the same time: an advisory lock, one per
//     schema, lets them in one after the other, and the late ones find nothing to do.
//   - A database that a newer release has migrated is never touched: [ErrNewer].
//   - A schema that is not what this release's files make is found out, whichever tool ran them: see
//     [Validate] and [SchemaError]. [Up] does not touch it.
//   - A server whose advisory locks or sequences are not those of Postgres gets no store: [ErrUnsuitable]. Up
//     tries both over a second connection; the locks also when nothing is pending, as after a restore.
//   - Stores in different schemas of one database know nothing of each other.
package migrations
