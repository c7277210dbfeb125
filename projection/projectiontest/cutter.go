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
	redelivered      // each is cut off the first time: the same process does it again
	crashBefore      // each is cut off the first time, and so is all that the process does then
	crashAfter       // each is made, and then the process is cut off
)

// cutter cuts the connections of a pool at commits: those of batches each once, and of those that effects make
// the first one since a batch, because they are all made again with it.
type cutter struct {
	mode mode

	mu        sync.Mutex
	armed     bool                 // the process has begun to read the log
	dead      bool                 // the process has crashed
	crashed   chan struct{}        // closed then
	last      map[*pgx.Conn]string // statement
	cut, made int                  // batches
	effects   int                  // commits since a batch that are not one
}

// isBatch reports whether a commit is that of a batch, by the statement before it, and not that of an effect.
func isBatch(statement string) bool { return strings.Contains(statement, "advance_partition(") }

// pool returns a pool like another one, whose connections are cut.
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

// sparedKey marks what is done to new connections: a crashed process, which a dead pool stands for,
// gives its leases back all the same, so that nobody has to wait for them.
type sparedKey struct{}

// commitKey marks commits: whether it is that of a batch.
type commitKey struct{}

// begin lets a new process use the pool.
func (c *cutter) begin() (crashed <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed, c.dead, c.crashed = false, false, make(chan struct{})
	return c.crashed
}

// arm is called when the process begins to read the log: what it has committed before belongs to its start.
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

// due reports whether a commit is to be cut, and counts it then. It must be called with the lock held.
func (c *cutter) due(batch bool) bool {
	if !batch {
		c.effects++
		return c.effects == 1
	}
	// What was cut afterwards is not done again.
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
