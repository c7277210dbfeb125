// Package migrations holds the SQL of a Tidemark store and applies it.
//
// Tidemark never migrates by itself. An application calls [Up] when it starts, or runs the same files with its own
// tool. The files have the annotations of goose and of tern:
//
//	goose -dir migrations postgres "$DATABASE_URL" up
//	tern migrate --migrations migrations
//
// Both tools need the default schema name, "tidemark". Only [Up] and [Down] can use another name. Each file writes its
// own row to schema_migrations, so [Validate] accepts the schema whichever tool ran the files.
//
// Up and Down hold a lock of their session. Behind PgBouncer in transaction mode, give them a direct connection.
//
// [CreateRoles] makes two roles, one for services and one for operators. Both can use the store, and neither can change
// events. If you run the files with a tool, run roles/roles.sql instead: it does the same.
//
// # Guarantees
//
//   - Each migration runs in a transaction of its own, in which it also records itself in schema_migrations. It happens
//     completely or not at all.
//   - Any number of processes may call Up and Down at the same time. An advisory lock, one per schema, lets one of them
//     run after the other. A process that finds its work done changes nothing.
//   - A database that a newer release has migrated is never changed: [ErrNewer].
//   - A schema that differs from the schema that this release's files make is detected, whichever tool ran them: see
//     [Validate] and [SchemaError]. [Up] does not change such a schema.
//   - A server whose advisory locks or sequences do not behave as in Postgres gets no store: [ErrUnsuitable]. Up tests
//     both over a second connection. It tests the locks even if nothing is pending, as after a restore.
//   - Stores in different schemas of one database are independent of each other.
package migrations
