package pgpool

import (
	"cmp"
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// Query runs a statement that must bring its next row, or its end, within [Answer] each time.
func (p *Pool) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	conn, err := p.Acquire(ctx)
	if err != nil {
		return failedRows{err}, err
	}
	return p.query(ctx, conn.Conn(), conn.Conn(), conn.Release, sql, args)
}

// QueryRow runs a statement that returns one row.
func (p *Pool) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	found, err := p.Query(ctx, sql, args...)
	return row{found, err}
}

// Exec runs a statement without rows, which must end within [Answer].
func (p *Pool) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	conn, err := p.Acquire(ctx)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	defer conn.Release()
	watch := p.Watch(conn.Conn(), answer(ctx))
	tag, err := conn.Conn().Exec(ctx, sql, args...)
	return tag, watch.Stop(err)
}

// SendBatch runs statements in one round trip. All of them must end within [Answer]. Their results go to the callback
// functions of the batch.
func (p *Pool) SendBatch(ctx context.Context, b *pgx.Batch) Results {
	conn, err := p.Acquire(ctx)
	if err != nil {
		return Results{err}
	}
	defer conn.Release()
	watch := p.Watch(conn.Conn(), Answer)
	return Results{watch.Stop(conn.Conn().SendBatch(ctx, b).Close())}
}

// QueryBoth runs two statements in one round trip, and gives the rows of each to a function. The first statement must
// end within a given time, which includes the wait for a connection. The second one must bring its next row, or its
// end, within [Answer] each time. QueryBoth returns the error of each statement. The second one does not run after an
// error of the first one.
func (p *Pool) QueryBoth(ctx context.Context, b *pgx.Batch, within time.Duration, first, second func(pgx.Rows) error) (firstErr, secondErr error) {
	bound, cancel := context.WithCancel(ctx)
	defer cancel()
	var ended atomic.Bool // the first statement has ended, in time or not
	alarm := p.clock.after(within, func() {
		if ended.CompareAndSwap(false, true) {
			cancel()
		}
	})
	defer p.clock.stop(alarm)
	inTime := func(err error) error {
		if ended.CompareAndSwap(false, true) {
			return err
		}
		return fmt.Errorf("%w within %s: %w", ErrNoAnswer, within, cmp.Or(err, bound.Err()))
	}
	conn, err := p.Acquire(bound)
	if err != nil {
		return inTime(err), nil
	}
	defer conn.Release()
	watch := p.Watch(conn.Conn(), Answer)
	results := conn.Conn().SendBatch(bound, b)
	if err := inTime(readNext(results, watch, first)); err != nil {
		_ = results.Close()
		return watch.Stop(err), nil
	}
	err = readNext(results, watch, second)
	return nil, watch.Stop(cmp.Or(err, results.Close()))
}

// readNext gives the rows of the next statement of a batch to a function.
func readNext(results pgx.BatchResults, watch *Watchdog, read func(pgx.Rows) error) error {
	found, err := results.Query()
	if err != nil {
		return err
	}
	defer found.Close()
	if err := read(progressing{found, watch}); err != nil {
		return err
	}
	found.Close()
	return found.Err()
}

// progressing are the rows of a statement of a batch.
type progressing struct {
	pgx.Rows
	watch *Watchdog
}

func (r progressing) Next() bool {
	r.watch.Progress()
	return r.Rows.Next()
}

// Results are the results of a batch that has ended.
type Results struct{ err error }

// Close returns the error of the batch.
func (r Results) Close() error { return r.err }

// Begin is BeginTx with the options of the session.
func (p *Pool) Begin(ctx context.Context) (pgx.Tx, error) { return p.BeginTx(ctx, pgx.TxOptions{}) }

// BeginTx begins a transaction. Its beginning and its end are bounded. The caller bounds the statements between them,
// because these may wait for locks.
func (p *Pool) BeginTx(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error) {
	conn, err := p.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	watch := p.Watch(conn.Conn(), Answer)
	begun, err := conn.Conn().BeginTx(ctx, options)
	if err := watch.Stop(err); err != nil {
		conn.Release()
		return nil, err
	}
	return &tx{Tx: begun, pool: p, conn: conn}, nil
}

// Tx queries in a transaction of the caller as [Pool.Query] does. Its other statements are not bounded.
type Tx struct {
	pgx.Tx
	Pool *Pool
}

// Query runs a statement that must bring its next row, or its end, within [Answer] each time.
func (t Tx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return t.Pool.query(ctx, t.Tx, t.Conn(), func() {}, sql, args)
}

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func (p *Pool) query(ctx context.Context, db querier, conn *pgx.Conn, release func(), sql string, args []any) (pgx.Rows, error) {
	watch := p.Watch(conn, answer(ctx))
	found, err := db.Query(ctx, sql, args...)
	r := &rows{Rows: found, watch: watch, release: release}
	if err != nil {
		r.Close()
		return r, r.watch.Stop(err)
	}
	return r, nil
}

// rows are the rows of a statement that is watched.
type rows struct {
	pgx.Rows
	watch   *Watchdog
	release func() // nil when it was called
}

func (r *rows) Next() bool {
	if r.Rows.Next() {
		r.watch.Progress()
		return true
	}
	r.Close()
	return false
}

func (r *rows) Close() {
	r.Rows.Close()
	_ = r.watch.Stop(nil)
	if r.release != nil {
		r.release()
		r.release = nil
	}
}

func (r *rows) Err() error {
	err := r.Rows.Err()
	if err == nil {
		return nil
	}
	return r.watch.Stop(err) // the rows have ended
}

// row is the only row of a statement.
type row struct {
	rows pgx.Rows
	err  error
}

func (r row) Scan(into ...any) error {
	if r.err != nil {
		return r.err
	}
	defer r.rows.Close()
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return pgx.ErrNoRows
	}
	if err := r.rows.Scan(into...); err != nil {
		return err
	}
	r.rows.Close()
	return r.rows.Err()
}

// tx is a transaction that gives its connection back when it ends.
type tx struct {
	pgx.Tx
	pool *Pool
	conn *Conn // nil when it was released
}

func (t *tx) Commit(ctx context.Context) error   { return t.end(ctx, t.Tx.Commit) }
func (t *tx) Rollback(ctx context.Context) error { return t.end(ctx, t.Tx.Rollback) }

func (t *tx) end(ctx context.Context, do func(context.Context) error) error {
	if t.conn == nil {
		return do(ctx) // the error says that the transaction has ended
	}
	watch := t.pool.WatchCommit(t.conn.Conn(), commitAnswer)
	err := watch.Stop(do(ctx))
	t.conn.Release()
	t.conn = nil
	return err
}

// failedRows are the rows of a statement that was not sent.
type failedRows struct{ err error }

func (failedRows) Close()                                       {}
func (r failedRows) Err() error                                 { return r.err }
func (failedRows) CommandTag() pgconn.CommandTag                { return pgconn.CommandTag{} }
func (failedRows) FieldDescriptions() []pgconn.FieldDescription { return nil }
func (failedRows) Next() bool                                   { return false }
func (r failedRows) Scan(...any) error                          { return r.err }
func (r failedRows) Values() ([]any, error)                     { return nil, r.err }
func (failedRows) RawValues() [][]byte                          { return nil }
func (failedRows) Conn() *pgx.Conn                              { return nil }
func (failedRows) TypeMap() *pgtype.Map                         { return nil }
