// Package pgdatabase creates and drops the databases of tests, which are many and short-lived.
package pgdatabase

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// DB is a connection or a pool of a role that may create databases.
type DB interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// strategySQL chooses how a database is copied. Copying its files takes half the time of copying it by way of the WAL,
// which is the default since Postgres 15. Only a server that syncs its files would wait longer for the two checkpoints
// around the copy.
const strategySQL = `
select case when current_setting('server_version_num')::int >= 150000
             and current_setting('fsync') = 'off'
            then 'strategy file_copy'
            else ''
        end`

// Create makes a database that is a copy of a template. No client may be connected to the template.
func Create(ctx context.Context, db DB, name, template string) error {
	var strategy string
	err := db.QueryRow(ctx, strategySQL).Scan(&strategy)
	if err == nil {
		_, err = db.Exec(ctx, fmt.Sprintf("create database %s template %s %s", quoted(name), quoted(template), strategy))
	}
	if err != nil {
		return fmt.Errorf("create database %s from %s: %w", name, template, err)
	}
	return nil
}

// endSessionsSQL ends the sessions of a database, and returns how many are left.
const endSessionsSQL = `
select count(pg_terminate_backend(pid))
  from pg_stat_activity
 where datname = $1
   and backend_type = 'client backend'`

const (
	// lookEvery is the time between two looks for sessions.
	lookEvery = 2 * time.Millisecond
	// maxLooks bounds the wait for the end of sessions. DROP DATABASE waits for the rest.
	maxLooks = 100
)

// Drop ends the sessions of a database and drops the database. A database that does not exist is not an error.
//
// A client that has closed its connection has a session for some milliseconds more, in which its server process ends.
// DROP DATABASE looks again for sessions only after 100 ms, so Drop waits for their end before.
func Drop(ctx context.Context, db DB, name string) error {
	for looks, sessions := 0, 1; sessions > 0 && looks < maxLooks; looks++ {
		if looks > 0 {
			time.Sleep(lookEvery)
		}
		if err := db.QueryRow(ctx, endSessionsSQL, name).Scan(&sessions); err != nil {
			break // of missing rights, for example; DROP DATABASE fails with an error that says so
		}
	}
	if _, err := db.Exec(ctx, "drop database if exists "+quoted(name)+" with (force)"); err != nil {
		return fmt.Errorf("drop database %s: %w", name, err)
	}
	return nil
}

func quoted(name string) string { return pgx.Identifier{name}.Sanitize() }
