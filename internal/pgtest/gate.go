//go:build unix

package pgtest

import (
	"net"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Gate forwards connections from a fixed TCP address to a server whose address can change. It can also drop all traffic
// in silence, like a network that drops packets. Its methods may be called from any goroutine.
type Gate struct {
	listener net.Listener
	socket   func() (string, error)
	running  sync.WaitGroup

	mu     sync.Mutex
	links  map[net.Conn]struct{} // both ends of every connection
	silent chan struct{}         // closed when traffic passes again; nil while it does
	past   chan struct{}         // closed when the gate forgets the connections that hold it
	closed bool
}

// NewGate forwards to the unix socket that a function returns, until the test ends. A connection that is made
// while the function returns an error is closed.
func NewGate(t testing.TB, socket func() (string, error)) *Gate {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &Gate{listener: listener, socket: socket, links: make(map[net.Conn]struct{}), past: make(chan struct{})}
	g.running.Go(g.accept)
	t.Cleanup(g.close)
	return g
}

// Address returns host and port.
func (g *Gate) Address() string { return g.listener.Addr().String() }

// Pool returns a pool over the gate with pgxpool's own settings. The pool has at most so many connections, unless the
// number is 0. The test's end cuts connections that hang, and closes the pool.
func (g *Gate) Pool(t testing.TB, connections int32) *pgxpool.Pool {
	t.Helper()
	pool := Connect(t, "postgres://postgres@"+g.Address()+"/postgres?sslmode=disable", func(c *pgxpool.Config) {
		if connections > 0 {
			c.MaxConns = connections
		}
	})
	t.Cleanup(g.Cut) // done before the pool is closed, because closing waits for the connections
	return pool
}

// Silence makes the gate drop all traffic in both directions, over old and new connections, until [Gate.Open]. Neither
// side is told.
func (g *Gate) Silence() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.silent == nil {
		g.silent = make(chan struct{})
	}
}

// Open lets traffic pass again over new connections. Connections that were made or used during the silence stay dead,
// as when a firewall has forgotten them.
func (g *Gate) Open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.silent != nil {
		close(g.silent)
		g.silent = nil
	}
}

// Forget makes the gate drop, in silence and for good, all traffic over the connections that exist now. New connections
// are forwarded.
func (g *Gate) Forget() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.past)
	g.past = make(chan struct{})
}

// Cut closes all connections.
func (g *Gate) Cut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for conn := range g.links {
		conn.Close()
	}
}

func (g *Gate) isSilent() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.silent != nil
}

func (g *Gate) close() {
	g.listener.Close()
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.Cut()
	g.running.Wait()
}

func (g *Gate) accept() {
	for {
		client, err := g.listener.Accept()
		if err != nil {
			return // the gate was closed
		}
		g.running.Go(func() { g.serve(client) })
	}
}

// serve forwards one connection until it ends.
func (g *Gate) serve(client net.Conn) {
	defer g.forget(client)
	if !g.remember(client) {
		return
	}
	dead := g.isSilent()
	socket, err := g.socket()
	if err != nil && !dead {
		return
	}
	server, err := net.Dial("unix", socket)
	if err != nil {
		if dead {
			swallow(client)
		}
		return
	}
	defer g.forget(server)
	if !g.remember(server) {
		return
	}
	g.mu.Lock()
	forgotten := g.past
	g.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { g.forward(server, client, dead, forgotten) })
	both.Go(func() { g.forward(client, server, dead, forgotten) })
	both.Wait()
}

// forward copies until either side ends. Once it has dropped something, it drops everything that follows.
func (g *Gate) forward(to, from net.Conn, dead bool, forgotten <-chan struct{}) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		select {
		case <-forgotten:
			dead = true
		default:
			dead = dead || g.isSilent()
		}
		if dead {
			if err != nil {
				return // the other side is not told
			}
			continue
		}
		if _, writeErr := to.Write(buffer[:n]); err != nil || writeErr != nil {
			to.Close()
			from.Close()
			return
		}
	}
}

// swallow reads until the connection ends.
func swallow(conn net.Conn) {
	buffer := make([]byte, 4<<10)
	for {
		if _, err := conn.Read(buffer); err != nil {
			return
		}
	}
}

// remember registers one side of a connection. It reports false if the gate was closed.
func (g *Gate) remember(conn net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.links[conn] = struct{}{}
	return true
}

func (g *Gate) forget(conn net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	conn.Close()
	delete(g.links, conn)
}
