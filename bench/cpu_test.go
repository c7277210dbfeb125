package main

import (
	"runtime"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/localpg"
)

// onLinux skips a test that needs what only Linux says about processes.
func onLinux(t *testing.T) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("needs /proc")
	}
}

// TestMeter: the time of a backend counts while it runs and after it has ended, and not at the client.
func TestMeter(t *testing.T) {
	onLinux(t)
	server := start(t, &localpg.Config{})
	if server.Source() == localpg.Container {
		t.Skip("the processes of a container have other numbers outside it")
	}
	connect := func() *pgx.Conn {
		conn, err := pgx.Connect(t.Context(), server.URL())
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	watching, conn := connect(), connect()
	defer watching.Close(t.Context())
	m, err := newMeter(t.Context(), conn)
	if err != nil || m.postmaster == 0 {
		t.Fatalf("the server is not measured: %+v, %v", m, err)
	}
	used := m.start()
	const least = 300 * time.Millisecond
	backend := int(conn.PgConn().PID())
	for readProcess(backend).busy < least {
		if _, err := conn.Exec(t.Context(), `select count(*) from generate_series(1, 100000)`); err != nil {
			t.Fatal(err)
		}
	}
	before := readProcess(backend).busy
	if running := used(); running.server < least*9/10 || running.client <= 0 || running.client > running.server {
		t.Errorf("used %+v while the backend runs, which has used %v", running, before)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for readProcess(backend).parent == m.postmaster {
		if _, err := watching.Exec(t.Context(), `select pg_stat_get_activity($1)`, backend); err != nil {
			t.Fatal(err)
		}
	}
	if ended := used(); ended.server < least*9/10 {
		t.Errorf("used %+v after the end of the backend, which had used %v", ended, before)
	}
}

// TestMeterElsewhere: a server whose processes cannot be seen has no processor time.
func TestMeterElsewhere(t *testing.T) {
	t.Parallel()
	spent := meter{}.start()()
	if spent.server != 0 {
		t.Errorf("a server that is not known has used %v", spent.server)
	}
	c := comparison{reference: tally{events: 10, cpu: cpu{client: 50 * time.Microsecond}}, measured: tally{events: 10, cpu: cpu{client: 500 * time.Microsecond}}}
	for i, want := range []string{"50 + –", "5.0 + –", "–"} {
		if got := c.cells()[4+i]; got != want {
			t.Errorf("%s is %q, want %q", columns("INSERT")[4+i], got, want)
		}
	}
}

// TestCPURatio: the ratio is that of the sums of client and server per event.
func TestCPURatio(t *testing.T) {
	t.Parallel()
	c := comparison{
		reference: tally{events: 1000, cpu: cpu{client: 94 * time.Millisecond, server: 106 * time.Millisecond}},
		measured:  tally{events: 2000, cpu: cpu{client: 400 * time.Millisecond, server: 400 * time.Millisecond}},
	}
	for i, want := range []string{"200 + 200", "94 + 106", "2.00"} {
		if got := c.cells()[4+i]; got != want {
			t.Errorf("%s is %q, want %q", columns("INSERT")[4+i], got, want)
		}
	}
}

func TestParseStat(t *testing.T) {
	t.Parallel()
	const numbers = " S 17 42 42 0 -1 4194624 1 2 3 4 100 20 3000 400 20 0 1 0 77 1000 200"
	want := process{parent: 17, busy: 1200 * time.Millisecond, children: 34 * time.Second}
	for _, name := range []string{"(postgres)", "(a b) c)"} {
		if got, err := parseStat("42 " + name + numbers); err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, want)
		}
	}
	for _, bad := range []string{"", "42 (postgres)", "42 (postgres) S 17 x 42 0 -1 4194624 1 2 3 4 100 20 y 400 20"} {
		if got, err := parseStat(bad); err == nil {
			t.Errorf("%q: %+v, want an error", bad, got)
		}
	}
}
