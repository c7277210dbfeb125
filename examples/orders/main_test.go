package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/examples/internal/servicetest"
	"github.com/tidemark-es/tidemark/tidemarktest"
)

func TestMain(m *testing.M) { servicetest.Main(m, main) }

// TestServeAndStop runs the program with a Postgres of its own until it is interrupted.
func TestServeAndStop(t *testing.T) {
	t.Parallel()
	servicetest.ServeAndStop(t, os.Interrupt, "/items", func(c *servicetest.Client) {
		c.Must(200, "GET", "/health", "")
		c.Must(200, "POST", "/items/cup/receipts", `{"name":"Cup","quantity":1}`)
	})
}

func TestUsage(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"sell"}, {"-nonsense"}, {"simulate", "-orders", "-1"}, {"simulate", "-workers", "0"},
		{"simulate", "-orders", "many"}, {"simulate", "now"}} {
		if text := servicetest.Output(t, servicetest.Program(t, "", args...), 2); !strings.Contains(strings.ToLower(text), "usage") {
			t.Errorf("%v: %s, want the usage", args, text)
		}
	}
	text := servicetest.Output(t, servicetest.Program(t, tidemarktest.New(t, nil).URL, "-data", t.TempDir(), "simulate"), 1)
	if !strings.Contains(text, "DATABASE_URL") {
		t.Errorf("%s, want it to name DATABASE_URL", text)
	}
}

// checks are the names of the checks that a simulation prints at its end.
var checks = []string{
	"stock is never negative", "available + reserved + shipped = received", "the stock agrees with the orders",
	"revenue = paid - refunded, in shop.revenue", "revenue = paid - refunded, in shop.customers",
	"read model shop.orders equals the log", "read model shop.customers equals the log",
	"read model shop.items equals the log", "read model shop.revenue equals the log",
	"orders are found by their items",
}

// TestSimulationKilled kills a simulation twice, and starts it again until it reaches its end. Then it runs the
// simulation once more, when nearly everything was done before.
func TestSimulationKilled(t *testing.T) {
	t.Parallel()
	url := tidemarktest.New(t, nil).URL
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	events := func() (n int) {
		if err := pool.QueryRow(t.Context(), `select count(*) from tidemark.events`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	program := func() *exec.Cmd {
		return servicetest.Program(t, url, "simulate", "-orders", "300", "-workers", "16", "-seed", "7")
	}
	for _, until := range []int{150, 900} {
		servicetest.KillWhen(t, program(), func() bool { return events() >= until })
	}
	killedAt := events()
	text := servicetest.Output(t, program(), 0)
	if events() <= killedAt {
		t.Error("the simulation was not killed half-way")
	}
	for _, check := range checks {
		if !strings.Contains(text, "ok    "+check) {
			t.Errorf("%s\nwant %q", text, check)
		}
	}
	for _, count := range []string{"placed 0,", "sold out 0,", "paid 0,", "shipped 0,", "cancelled 0,", "returned 0\n", "done once 0,", "refused 0,"} {
		if strings.Contains(text, count) {
			t.Errorf("%s\nthe simulation has none of these: %s", text, count)
		}
	}
	servicetest.Output(t, program(), 0)
	var twice int
	err = pool.QueryRow(t.Context(), `
		select count(*)
		  from (select from tidemark.events
		         where type in ('order.placed', 'order.paid', 'order.shipped', 'stock.reserved', 'stock.shipped_out')
		         group by stream, type, data ->> 'order'
		        having count(*) > 1) again`).Scan(&twice)
	if err != nil || twice > 0 {
		t.Errorf("%d things were done twice, %v", twice, err)
	}
	var hot, cold int
	err = pool.QueryRow(t.Context(), `
		select sum(available) filter (where item < 'product10'), sum(available) filter (where item > 'product89')
		  from shop.items`).Scan(&hot, &cold)
	if err != nil || hot >= cold/2 {
		t.Errorf("%d of the ten popular products are left and %d of the ten others, %v", hot, cold, err)
	}
}

// TestSimulationFinds breaks each thing that a simulation checks. The check must find it, and the simulation must fail.
func TestSimulationFinds(t *testing.T) {
	t.Parallel()
	url := tidemarktest.New(t, nil).URL
	servicetest.Output(t, servicetest.Program(t, url, "simulate", "-orders", "60"), 0)
	s, err := open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	servicetest.Background(t, s.runner.Run)
	if err := s.runner.Wait(t.Context(), 0); err != nil {
		t.Fatal(err)
	}

	broken := make(map[string]bool)
	find := func(how string, wants ...string) {
		t.Helper()
		var report strings.Builder
		if err := s.audit(t.Context(), &report); err == nil {
			t.Errorf("%s: the audit found nothing", how)
		}
		for _, want := range wants {
			broken[want] = true
			if !strings.Contains(report.String(), "FAIL  "+want) {
				t.Errorf("%s: want a failed check of: %s\n%s", how, want, &report)
			}
		}
	}
	for _, test := range []struct{ spoil, repair, check string }{
		{`update shop.items set available = available + 1 where item = 'product00'`, `update shop.items set available = available - 1 where item = 'product00'`, checks[1]},
		{`update shop.revenue set paid = paid + 1`, `update shop.revenue set paid = paid - 1`, checks[3]},
		{`update shop.customers set refunded = refunded + 1`, `update shop.customers set refunded = refunded - 1`, checks[4]},
		{`update shop.orders set customer = 'x' || customer`, `update shop.orders set customer = substr(customer, 2)`, checks[5]},
		{`update shop.customers set orders = orders + 1`, `update shop.customers set orders = orders - 1`, checks[6]},
		{`insert into shop.items (item, name, received, available, reserved, shipped, version) values ('x', 'x', 0, 0, 0, 0, 0)`, `delete from shop.items where item = 'x'`, checks[7]},
		{`update shop.orders set document = document || 'x:99'`, `update shop.orders set document = ts_delete(document, 'x')`, checks[9]},
		{`update shop.revenue set day = day + 1000`, `update shop.revenue set day = day - 1000`, checks[8]},
	} {
		for i, sql := range []string{test.spoil, test.repair} {
			if done, err := s.pool.Exec(t.Context(), sql); err != nil || done.RowsAffected() == 0 {
				t.Fatalf("%s: %v, %v", sql, done, err)
			}
			if i == 0 {
				find(test.spoil, test.check)
			}
		}
	}
	// No command does this: it reserves more units than there are, for an order that does not exist.
	_, err = s.store.Append(t.Context(), eventstore.StreamID{Category: "stock", Key: "product01"}, eventstore.Any,
		eventstore.Draft{Type: "stock.reserved", Data: []byte(`{"order":"none","quantity":1000000}`)})
	if err != nil {
		t.Fatal(err)
	}
	find("a reservation", checks[0], checks[2])
	if len(broken) != len(checks) {
		t.Errorf("only these checks were broken: %v", broken)
	}
	text := servicetest.Output(t, servicetest.Program(t, url, "simulate", "-orders", "0"), 1)
	if !strings.Contains(text, fmt.Sprintf("2 of %d checks failed", len(checks))) {
		t.Errorf("%s, want exit status 1 and why", text)
	}
}
