package eventstore_test

import (
	"context"
	"math"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// proxy forwards connections to a server and cuts them when it is told to.
type proxy struct {
	listener net.Listener
	dial     func(context.Context) (net.Conn, error) // to the server
	refusing atomic.Bool
	running  sync.WaitGroup

	mu    sync.Mutex
	links map[*link]struct{}
}

// startProxy starts a proxy that forwards connections until the test ends.
func startProxy(t *testing.T, dial func(context.Context) (net.Conn, error)) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: listener, dial: dial, links: make(map[*link]struct{})}
	p.running.Go(p.accept)
	t.Cleanup(func() {
		listener.Close()
		p.cutAll()
		p.running.Wait()
	})
	return p
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return // the listener was closed
		}
		if p.refusing.Load() {
			client.Close()
			continue
		}
		p.running.Go(func() { p.serve(client) })
	}
}

// connect connects to the proxy.
func (p *proxy) connect(ctx context.Context) (net.Conn, error) {
	var dialer net.Dialer
	return dialer.DialContext(ctx, "tcp", p.listener.Addr().String())
}

// serve forwards one connection until it ends.
func (p *proxy) serve(client net.Conn) {
	defer client.Close()
	server, err := p.dial(context.Background())
	if err != nil {
		return
	}
	l := &link{client: client, server: server}
	l.toClient.Store(math.MaxInt64)
	l.toServer.Store(math.MaxInt64)
	p.mu.Lock()
	p.links[l] = struct{}{}
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { l.forward(server, client, &l.toServer) })
	both.Go(func() { l.forward(client, server, &l.toClient) })
	both.Wait()
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

// cut cuts a random connection, now or in the middle of the next request or answer. It reports whether there was a
// connection.
func (p *proxy) cut() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links { // in random order
		switch rand.IntN(3) {
		case 0:
			l.close()
		case 1:
			l.toServer.Store(rand.Int64N(500))
		case 2:
			l.toClient.Store(rand.Int64N(100))
		}
		return true
	}
	return false
}

// cutAll cuts all connections now.
func (p *proxy) cutAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.close()
	}
}

// link is a connection through the proxy.
type link struct {
	client, server     net.Conn
	toClient, toServer atomic.Int64 // how many bytes it still lets through
}

func (l *link) forward(to, from net.Conn, left *atomic.Int64) {
	defer l.close()
	buffer := make([]byte, 4096)
	for {
		n, err := from.Read(buffer)
		rest := left.Add(-int64(n))
		if rest < 0 {
			n = max(n+int(rest), 0)
		}
		if _, writeErr := to.Write(buffer[:n]); err != nil || writeErr != nil || rest <= 0 {
			return
		}
	}
}

// close resets the connection on both sides, without an orderly end.
func (l *link) close() {
	for _, conn := range []net.Conn{l.client, l.server} {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		conn.Close()
	}
}
