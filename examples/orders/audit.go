package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/examples/orders/order"
	"github.com/tidemark-es/tidemark/examples/orders/stock"
)

// audit checks what must always be true, and prints the result of each check. It builds the read models again from the
// first event on, in memory and by other code, and compares them with the tables. Nothing must write during an audit.
func (s *app) audit(ctx context.Context, out io.Writer) error {
	b := newBooks()
	if err := b.read(ctx, s.store); err != nil {
		return err
	}
	if err := s.runner.Wait(ctx, b.end); err != nil {
		return err
	}
	a := &auditor{out: out}
	a.check("stock is never negative", fmt.Sprintf("%d items", len(b.items)), b.negative)
	if err := a.checkBalance(ctx, s); err != nil {
		return err
	}
	a.check("the stock agrees with the orders", fmt.Sprintf("%d orders", len(b.orders)), b.disagreement())
	if err := a.checkMoney(ctx, s, b); err != nil {
		return err
	}
	err := errors.Join(
		compare(ctx, a, s, ordersModel, b.orders, func(r OrderRow) string { return r.ID }, `select `+orderColumns+` from shop.orders`),
		compare(ctx, a, s, customersModel, b.customers, customerKey, `select customer, `+customerColumns+` from shop.customers`),
		compare(ctx, a, s, itemsModel, b.items, func(r ItemRow) string { return r.Item }, `select `+itemColumns+` from shop.items`),
		compare(ctx, a, s, revenueModel, b.revenue, revenueKey, `select day::text, item, currency, units, paid, refunded from shop.revenue`))
	if err != nil {
		return err
	}
	if err := a.checkSearch(ctx, s); err != nil {
		return err
	}
	if a.broken > 0 {
		return fmt.Errorf("%d of %d checks failed", a.broken, a.checks)
	}
	return nil
}

// auditor prints and counts checks.
type auditor struct {
	out            io.Writer
	checks, broken int
}

// check prints one check: about, which says what was checked, or wrong if it is not empty.
func (a *auditor) check(what, about, wrong string) {
	a.checks++
	if wrong != "" {
		a.broken++
		fmt.Fprintf(a.out, "FAIL  %s: %s\n", what, wrong)
		return
	}
	fmt.Fprintf(a.out, "ok    %s: %s\n", what, about)
}

// checkBalance looks for an item with too few or too many units.
func (a *auditor) checkBalance(ctx context.Context, s *app) error {
	var items int64
	var wrong string
	err := s.pool.QueryRow(ctx, `
		select count(*),
		       coalesce(min(format('%s: %s + %s + %s, but %s', item, available, reserved, shipped, received))
		                filter (where available + reserved + shipped <> received), '')
		  from shop.items`).Scan(&items, &wrong)
	if err == nil {
		a.check("available + reserved + shipped = received", fmt.Sprintf("%d items", items), wrong)
	}
	return err
}

// checkSearch looks for an order that a search does not find by the names of its items, or finds by other names.
func (a *auditor) checkSearch(ctx context.Context, s *app) error {
	var orders int
	var wrong string
	err := s.pool.QueryRow(ctx, `
		select count(*),
		       coalesce(min(id) filter (where document <> to_tsvector('simple', (
		           select string_agg(line ->> 'name', E'\n' order by n)
		             from json_array_elements(lines) with ordinality as l (line, n)))), '')
		  from shop.orders`).Scan(&orders, &wrong)
	if err == nil {
		a.check("orders are found by their items", fmt.Sprintf("%d orders", orders), wrong)
	}
	return err
}

// checkMoney compares the payments and refunds in the events of the orders with those in two read models.
func (a *auditor) checkMoney(ctx context.Context, s *app, b *books) error {
	type sums struct {
		Currency       string
		Paid, Refunded int64
	}
	for _, table := range []string{"shop.revenue", "shop.customers"} {
		rows, _ := s.pool.Query(ctx, `
			select currency, sum(paid)::bigint, sum(refunded)::bigint
			  from `+table+`
			 group by currency
			having sum(paid) <> 0`)
		found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[sums])
		if err != nil {
			return err
		}
		about, wrong := "", ""
		if len(found) != len(b.money) {
			wrong = fmt.Sprintf("%d currencies, but the events have %d", len(found), len(b.money))
		}
		for _, is := range found {
			of := b.money[is.Currency]
			about += fmt.Sprintf(", %d = %d - %d %s", is.Paid-is.Refunded, of.Paid, of.Refunded, is.Currency)
			if is.Paid-is.Refunded != of.Paid-of.Refunded {
				wrong = fmt.Sprintf("%d, but the events have paid %d - refunded %d %s", is.Paid-is.Refunded, of.Paid, of.Refunded, is.Currency)
			}
		}
		a.check("revenue = paid - refunded, in "+table, cmp.Or(about, ", nothing was paid")[2:], wrong)
	}
	return nil
}

// compare checks that a read model has exactly the rows that it should have.
func compare[R any](ctx context.Context, a *auditor, s *app, name string, want map[string]R, key func(R) string, sql string) error {
	rows, _ := s.pool.Query(ctx, sql)
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[R])
	if err != nil {
		return err
	}
	got, wrong := make(map[string]R), ""
	for _, row := range found {
		got[key(row)] = row
	}
	for _, k := range slices.Sorted(maps.Keys(union(got, want))) {
		g, isThere := got[k]
		w, belongs := want[k]
		if isThere != belongs || !reflect.DeepEqual(g, w) {
			wrong = fmt.Sprintf("%s is %+v, but the events make it %+v", k, g, w)
			break
		}
	}
	a.check("read model "+name+" equals the log", fmt.Sprintf("%d rows", len(got)), wrong)
	return nil
}

func union[R any](a, b map[string]R) map[string]R {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

type (
	customerTotals struct {
		Customer string
		CustomerRow
	}
	revenueRow struct {
		Day                   order.Date
		Item, Currency        string
		Units, Paid, Refunded int64
	}
	money struct{ Paid, Refunded int64 }
)

func customerKey(r customerTotals) string { return r.Customer + " " + r.Currency }

func revenueKey(r revenueRow) string { return string(r.Day) + " " + r.Item + " " + r.Currency }

// books are all read models, made from the log in memory.
type books struct {
	end       eventstore.Position
	orders    map[string]OrderRow
	customers map[string]customerTotals
	items     map[string]ItemRow
	revenue   map[string]revenueRow
	money     map[string]money // by currency
	returned  map[string]int64 // by item
	negative  string           // names the first item that had negative quantities, if any
}

func newBooks() *books {
	return &books{
		orders: make(map[string]OrderRow), customers: make(map[string]customerTotals), items: make(map[string]ItemRow),
		revenue: make(map[string]revenueRow), money: make(map[string]money), returned: make(map[string]int64),
	}
}

// read reads the whole log.
func (b *books) read(ctx context.Context, store *eventstore.Store) error {
	for raw, err := range store.ReadAll(ctx, 0, eventstore.Filter{Categories: []string{"order", "stock"}}) {
		if err != nil {
			return err
		}
		if b.end = raw.Position; raw.Stream.Category == "order" {
			events, err := order.Codec.Decode(raw)
			if err != nil {
				return err
			}
			for _, event := range events {
				b.order(event)
			}
			continue
		}
		events, err := stock.Codec.Decode(raw)
		if err != nil {
			return err
		}
		for _, event := range events {
			b.stock(event)
		}
	}
	return nil
}

func (b *books) order(e orderEvent) {
	o := b.orders[e.Stream.Key]
	o.Version = e.Version
	switch data := e.Data.(type) {
	case order.Placed:
		o = OrderRow{ID: e.Stream.Key, Customer: data.Customer, Status: order.StatusPlaced, Currency: data.Currency,
			Total: order.Total(data.Lines), PlacedOn: data.Date, Lines: data.Lines, Version: e.Version}
		for _, line := range data.Lines {
			item := b.items[line.Item]
			item.Orders++
			item.LastOrderedOn = max(item.LastOrderedOn, data.Date)
			b.items[line.Item] = item
		}
		b.customer(o, func(c *CustomerRow) { c.Orders++; c.LastOrderOn = max(c.LastOrderOn, data.Date) })
	case order.Paid:
		o.Status = order.StatusPaid
		b.pay(o, data.Date, data.Amount, 1)
	case order.Shipped:
		o.Status, o.Carrier, o.Tracking = order.StatusShipped, data.Carrier, data.Tracking
	case order.Delivered:
		o.Status = order.StatusDelivered
	case order.Cancelled:
		o.Status, o.Reason = order.StatusCancelled, data.Reason
		b.customer(o, func(c *CustomerRow) { c.Cancelled++ })
		b.pay(o, data.Date, data.Refunded, -1)
	case order.Returned:
		o.Status, o.Reason = order.StatusReturned, data.Reason
		b.customer(o, func(c *CustomerRow) { c.Returned++ })
		b.pay(o, data.Date, data.Refunded, -1)
	}
	b.orders[o.ID] = o
}

func (b *books) customer(o OrderRow, change func(*CustomerRow)) {
	c := b.customers[o.Customer+" "+o.Currency]
	c.Customer, c.Currency = o.Customer, o.Currency
	change(&c.CustomerRow)
	b.customers[customerKey(c)] = c
}

// pay books the payment (sign 1) or the refund (sign -1) of a whole order.
func (b *books) pay(o OrderRow, day order.Date, amount, sign int64) {
	if amount == 0 {
		return
	}
	paid, refunded := amount, int64(0)
	if sign < 0 {
		paid, refunded = 0, amount
	}
	total := b.money[o.Currency]
	b.money[o.Currency] = money{total.Paid + paid, total.Refunded + refunded}
	b.customer(o, func(c *CustomerRow) { c.Paid += paid; c.Refunded += refunded })
	for _, line := range o.Lines {
		r := revenueRow{Day: day, Item: line.Item, Currency: o.Currency}
		if known, ok := b.revenue[revenueKey(r)]; ok {
			r = known
		}
		r.Units += sign * line.Quantity
		if sign > 0 {
			r.Paid += line.Quantity * line.Price
		} else {
			r.Refunded += line.Quantity * line.Price
		}
		b.revenue[revenueKey(r)] = r
	}
}

func (b *books) stock(e stockEvent) {
	i := b.items[e.Stream.Key]
	i.Item, i.Version = e.Stream.Key, e.Version
	switch data := e.Data.(type) {
	case stock.Received:
		i.Name = data.Name
		if data.Order != "" {
			b.returned[i.Item] += data.Quantity
		}
		i.Received += data.Quantity
		i.Available += data.Quantity
	case stock.Reserved:
		i.Available -= data.Quantity
		i.Reserved += data.Quantity
	case stock.Released:
		i.Available += data.Quantity
		i.Reserved -= data.Quantity
	case stock.ShippedOut:
		i.Reserved -= data.Quantity
		i.Shipped += data.Quantity
	}
	if b.negative == "" && min(i.Available, i.Reserved) < 0 {
		b.negative = fmt.Sprintf("%s at version %d: %d available, %d reserved", i.Item, e.Version, i.Available, i.Reserved)
	}
	b.items[i.Item] = i
}

// disagreement names an item whose reserved, shipped and returned units differ from those in the orders. It returns ""
// if there is none.
func (b *books) disagreement() string {
	type units struct{ reserved, shipped, returned int64 }
	wanted := make(map[string]units)
	for _, o := range b.orders {
		for _, line := range o.Lines {
			u := wanted[line.Item]
			switch o.Status {
			case order.StatusPlaced, order.StatusPaid:
				u.reserved += line.Quantity
			case order.StatusShipped, order.StatusDelivered:
				u.shipped += line.Quantity
			case order.StatusReturned:
				u.shipped += line.Quantity
				u.returned += line.Quantity
			}
			wanted[line.Item] = u
		}
	}
	for _, i := range b.items {
		if got := (units{i.Reserved, i.Shipped, b.returned[i.Item]}); got != wanted[i.Item] {
			return fmt.Sprintf("%s has %+v, but the orders have %+v", i.Item, got, wanted[i.Item])
		}
	}
	return ""
}
