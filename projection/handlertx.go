package projection

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidemark-es/tidemark/internal/pgerr"
)

// handlerTx is the transaction that handlers get. They cannot end it, and they name tables in braces. It records every
// error of Postgres, so that an error that the handler does not return is judged like a returned one.
type handlerTx struct {
	pgx.Tx
	names *tableNames
	said  *saying
}

// speak notes that the handler sends a statement. It returns an error if the transaction has ended, by a statement such
// as ROLLBACK: Postgres would commit a later statement on its own.
func (t handlerTx) speak() error {
	t.said.speak()
	if t.Tx.Conn().PgConn().TxStatus() == 'I' {
		return errEnded
	}
	return nil
}

func (handlerTx) Commit(context.Context) error   { return errEnded }
func (handlerTx) Rollback(context.Context) error { return errEnded }

func (t handlerTx) Begin(ctx context.Context) (pgx.Tx, error) {
	if err := t.speak(); err != nil {
		return nil, err
	}
	tx, err := t.Tx.Begin(ctx)
	if t.said.hear(err); err != nil {
		return nil, err
	}
	return savepoint{handlerTx{tx, t.names, t.said}}, nil
}

func (t handlerTx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if err := t.speak(); err != nil {
		return pgconn.CommandTag{}, err
	}
	tag, err := t.Tx.Exec(ctx, t.names.sql(sql), args...)
	return tag, t.said.hear(err)
}

func (t handlerTx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if err := t.speak(); err != nil {
		return refusedRows{}, err
	}
	rows, err := t.Tx.Query(ctx, t.names.sql(sql), args...)
	return heardRows{rows, t.said}, t.said.hear(err)
}

func (t handlerTx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	if t.speak() != nil {
		return refusedRows{}
	}
	return heardRow{t.Tx.QueryRow(ctx, t.names.sql(sql), args...), t.said}
}

func (t handlerTx) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (int64, error) {
	if err := t.speak(); err != nil {
		return 0, err
	}
	n, err := t.Tx.CopyFrom(ctx, t.names.identifier(table), columns, rows)
	return n, t.said.hear(err)
}

func (t handlerTx) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	if t.speak() != nil {
		return refusedBatch{}
	}
	for _, q := range b.QueuedQueries {
		q.SQL = t.names.sql(q.SQL)
	}
	return heardBatch{t.Tx.SendBatch(ctx, b), t.said}
}

func (t handlerTx) Prepare(ctx context.Context, name, sql string) (*pgconn.StatementDescription, error) {
	if err := t.speak(); err != nil {
		return nil, err
	}
	statement, err := t.Tx.Prepare(ctx, name, t.names.sql(sql))
	return statement, t.said.hear(err)
}

// refusedRows and refusedBatch answer a statement that was not sent.
type (
	refusedRows  struct{ pgx.Rows }
	refusedBatch struct{ pgx.BatchResults }
)

func (refusedRows) Close()                        {}
func (refusedRows) CommandTag() pgconn.CommandTag { return pgconn.CommandTag{} }
func (refusedRows) Err() error                    { return errEnded }
func (refusedRows) Next() bool                    { return false }
func (refusedRows) Scan(...any) error             { return errEnded }

func (refusedBatch) Exec() (pgconn.CommandTag, error) { return pgconn.CommandTag{}, errEnded }
func (refusedBatch) Query() (pgx.Rows, error)         { return refusedRows{}, errEnded }
func (refusedBatch) QueryRow() pgx.Row                { return refusedRows{} }
func (refusedBatch) Close() error                     { return errEnded }

// savepoint is a transaction inside the transaction of a batch. Handlers may end it.
type savepoint struct{ handlerTx }

func (s savepoint) Commit(ctx context.Context) error   { return s.said.hear(s.Tx.Commit(ctx)) }
func (s savepoint) Rollback(ctx context.Context) error { return s.Tx.Rollback(ctx) }

type heardRow struct {
	row  pgx.Row
	said *saying
}

func (r heardRow) Scan(dest ...any) error { return r.said.hear(r.row.Scan(dest...)) }

type heardRows struct {
	pgx.Rows
	said *saying
}

func (r heardRows) Err() error { return r.said.hear(r.Rows.Err()) }

func (r heardRows) Next() bool {
	next := r.Rows.Next()
	if !next {
		_ = r.Err()
	}
	return next
}

func (r heardRows) Close() {
	r.Rows.Close()
	_ = r.Err()
}

type heardBatch struct {
	pgx.BatchResults
	said *saying
}

func (b heardBatch) Exec() (pgconn.CommandTag, error) {
	tag, err := b.BatchResults.Exec()
	return tag, b.said.hear(err)
}

func (b heardBatch) Query() (pgx.Rows, error) {
	rows, err := b.BatchResults.Query()
	return heardRows{rows, b.said}, b.said.hear(err)
}

func (b heardBatch) QueryRow() pgx.Row { return heardRow{b.BatchResults.QueryRow(), b.said} }

func (b heardBatch) Close() error { return b.said.hear(b.BatchResults.Close()) }

// saying records what a handler and Postgres send to each other.
type saying struct {
	err  *pgconn.PgError // the latest error by which Postgres may have aborted the transaction
	last time.Time       // when the handler or Postgres last sent something
	idle time.Duration   // the longest time in which the handler sent nothing
}

func newSaying() *saying { return &saying{last: time.Now()} }

// speak notes that the handler sends a statement, or has returned.
func (s *saying) speak() {
	now := time.Now()
	s.idle = max(s.idle, now.Sub(s.last))
	s.last = now
}

// hear records the error of a statement and returns it, sometimes with an explanation.
func (s *saying) hear(err error) error {
	s.last = time.Now()
	var said *pgconn.PgError
	if errors.As(err, &said) && said.Code != pgerr.FailedTransaction { // that code does not name the cause
		s.err = said
		if said.Code == pgerr.SyntaxError && strings.Contains(said.Message, `"{"`) {
			return Fatal(fmt.Errorf("a name in braces is not one of Options.Tables: %w", err))
		}
	}
	return err
}

// aborted returns why the transaction of a handler was aborted. The handler has returned err.
func (s *saying) aborted(err error) error {
	switch {
	case s.err == nil && err == nil:
		return errAborted
	case s.err == nil || errors.Is(err, s.err):
		return err
	case err == nil:
		return fmt.Errorf("%w: %w", errAborted, s.err)
	}
	return fmt.Errorf("%w: %w; after that the handler returned: %w", errAborted, s.err, err)
}
