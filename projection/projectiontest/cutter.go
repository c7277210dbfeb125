package projectiontest

import (
	"context"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/multitracer"
	"github.com/jackc/pgx/v5/pgxpool"
)

// mode is what happens at commits.
type mode int

const (
	undisturbed mode = iota
	redelivered      // each commit is cut off the first time, and the same process repeats it
	crashBefore      // each commit is cut off the first time, together with its process
	crashAfter       // each commit succeeds, and then its process is cut off
)

// cutter cuts the connections of a pool at commits. The commit of each batch is cut once. Of the commits of effects it
// cuts the first one since a batch, because all of them are made again with the batch.
type cutter struct {
	mode mode

	mu        sync.Mutex
	armed     bool                 // the process has begun to read the log
	dead      bool                 // the process has crashed
	crashed   chan struct{}        // closed when the process crashes
	last      map[*pgx.Conn]string // the last statement of each connection
	cut, made int                  // how many batches were cut, and how many were committed
	effects   int                  // commits of effects since the last batch
}

// isBatch reports whether a commit is that of a batch, and not that of an effect. It looks at the statement before the
// commit.
func isBatch(statement string) bool { return strings.Contains(statement, "advance_partition(") }

// pool returns a pool like another one, but with connections that are cut.
func (c *cutter) pool(ctx context.Context, like *pgxpool.Pool) (*pgxpool.Pool, error) {
	config := like.Config()
	c.last = make(map[*pgx.Conn]string)
	if tracer := config.ConnConfig.Tracer; tracer != nil {
		config.ConnConfig.Tracer = multitracer.New(tracer, c)
	} else {
		config.ConnConfig.Tracer = c
	}
	if prepare := config.AfterConnect; prepare != nil {
		config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
			return prepare(context.WithValue(ctx, sparedKey{}, true), conn)
		}
	}
	return pgxpool.NewWithConfig(ctx, config)
}

// sparedKey marks the statements that prepare a new connection. They are spared after a crash too, so that the crashed
// process can still connect and give its leases back. Otherwise the next process would wait until they expire.
type sparedKey struct{}

// commitKey marks a commit. Its value says whether the commit is that of a batch.
type commitKey struct{}

// begin lets a new process use the pool.
func (c *cutter) begin() (crashed <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed, c.dead, c.crashed = false, false, make(chan struct{})
	return c.crashed
}

// arm is called when the process begins to read the log. Earlier commits belong to the start of the process and are not
// cut.
func (c *cutter) arm() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed = c.mode != undisturbed
}

// crash must be called with the lock held.
func (c *cutter) crash() {
	if !c.dead {
		c.dead = true
		close(c.crashed)
	}
}

// TraceQueryStart implements pgx.QueryTracer.
func (c *cutter) TraceQueryStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.armed || ctx.Value(sparedKey{}) != nil {
		return ctx
	}
	if c.dead {
		_ = conn.Close(ctx)
		return ctx
	}
	if !strings.EqualFold(data.SQL, "commit") {
		c.last[conn] = data.SQL
		return ctx
	}
	batch := isBatch(c.last[conn])
	if c.mode != crashAfter && c.due(batch) {
		_ = conn.Close(ctx)
		if c.mode == crashBefore {
			c.crash()
		}
		return ctx
	}
	return context.WithValue(ctx, commitKey{}, batch)
}

// TraceQueryEnd implements pgx.QueryTracer.
func (c *cutter) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryEndData) {
	batch, counts := ctx.Value(commitKey{}).(bool)
	if !counts || data.Err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mode == crashAfter && c.due(batch) {
		c.crash()
	}
	if batch {
		c.made, c.effects = c.made+1, 0
	}
}

// due reports whether a commit must be cut, and counts it if so. It must be called with the lock held.
func (c *cutter) due(batch bool) bool {
	if !batch {
		c.effects++
		return c.effects == 1
	}
	// Except in crashAfter, a batch whose commit was cut is committed again. This second commit is not cut.
	if c.mode != crashAfter && c.cut > c.made {
		return false
	}
	c.cut++
	return true
}

// cuts returns how many batches were cut.
func (c *cutter) cuts() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cut
}
