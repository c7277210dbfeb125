package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/examples/orders/order"
	"github.com/tidemark-es/tidemark/examples/orders/stock"
	"github.com/tidemark-es/tidemark/query"
)

// The queries. A list asks for one page: at most Limit rows after After, the last row of the page before.
// A Text is written as for a search engine, such as: cup or pot -blue.
type (
	OneOrder    struct{ Order string }
	OneItem     struct{ Item string }
	OneCustomer struct{ Customer string }

	OrderList struct {
		Customer string
		Statuses []string   // empty means any
		From, To order.Date // both included; empty means no bound
		Currency string     // empty means any
		Min, Max int64      // of the total, both included
		Text     string     // in the names of the items; empty means any
		Sort     string     // one of the keys of orderSorts
		After    []string   // the cursor of an order
		Limit    int
	}
	ItemList struct {
		Text  string // in the name; empty means any
		After string // an item
		Limit int
	}
	RevenueList struct {
		From, To order.Date // both included; empty means no bound
		After    []string   // the cursor of a row
		Limit    int
	}
)

// OrderRow is an order.
type OrderRow struct {
	ID       string             `json:"id"`
	Customer string             `json:"customer"`
	Status   order.Status       `json:"status"`
	Currency string             `json:"currency"`
	Total    int64              `json:"total"` // in minor units, as all amounts
	PlacedOn order.Date         `json:"placed_on"`
	Lines    []order.Line       `json:"lines"`
	Carrier  string             `json:"carrier,omitempty"`
	Tracking string             `json:"tracking,omitempty"`
	Reason   string             `json:"reason,omitempty"`
	Version  eventstore.Version `json:"version"`
}

// CustomerRow is what a customer has ordered in one currency.
type CustomerRow struct {
	Currency    string     `json:"currency"`
	Orders      int64      `json:"orders"`
	Cancelled   int64      `json:"cancelled"`
	Returned    int64      `json:"returned"`
	Paid        int64      `json:"paid"`
	Refunded    int64      `json:"refunded"`
	LastOrderOn order.Date `json:"last_order_on"`
}

// ItemRow is an item of the stock.
type ItemRow struct {
	Item          string             `json:"item"`
	Name          string             `json:"name"`
	Received      int64              `json:"received"`
	Available     int64              `json:"available"`
	Reserved      int64              `json:"reserved"`
	Shipped       int64              `json:"shipped"`
	Orders        int64              `json:"orders"`
	LastOrderedOn order.Date         `json:"last_ordered_on,omitempty"`
	Version       eventstore.Version `json:"version"`
}

// DayRow is the revenue of one day in one currency.
type DayRow struct {
	Day      order.Date `json:"day"`
	Currency string     `json:"currency"`
	Units    int64      `json:"units"` // sold minus refunded
	Paid     int64      `json:"paid"`
	Refunded int64      `json:"refunded"`
	Revenue  int64      `json:"revenue"` // paid minus refunded
}

// ProductRow is the revenue of one product in one currency.
type ProductRow struct {
	Item     string `json:"item"`
	Name     string `json:"name"`
	Currency string `json:"currency"`
	Units    int64  `json:"units"`
	Paid     int64  `json:"paid"`
	Refunded int64  `json:"refunded"`
	Revenue  int64  `json:"revenue"`
}

// ErrUnknownCustomer means that no customer with this id has placed an order.
var ErrUnknownCustomer = errors.New("there is no such customer")

// queries answer from the read models. Each waits until its read models have reached the position in its context.
type queries struct {
	order    query.Handler[OneOrder, OrderRow]
	orders   query.Handler[OrderList, []OrderRow]
	customer query.Handler[OneCustomer, []CustomerRow]
	item     query.Handler[OneItem, ItemRow]
	items    query.Handler[ItemList, []ItemRow]
	days     query.Handler[RevenueList, []DayRow]
	products query.Handler[RevenueList, []ProductRow]
}

func newQueries(pool *pgxpool.Pool, waiter query.Waiter) *queries {
	m := &models{pool}
	return &queries{
		order:    query.WaitFor(m.order, waiter, ordersModel),
		orders:   query.WaitFor(m.orders, waiter, ordersModel),
		customer: query.WaitFor(m.customer, waiter, customersModel),
		item:     query.WaitFor(m.item, waiter, itemsModel),
		items:    query.WaitFor(m.items, waiter, itemsModel),
		days:     query.WaitFor(m.days, waiter, revenueModel),
		products: query.WaitFor(m.products, waiter, revenueModel, itemsModel),
	}
}

type models struct{ pool *pgxpool.Pool }

const orderColumns = `id, customer, status, currency, total, placed_on::text, lines, carrier, tracking, reason, version`

func (m *models) order(ctx context.Context, q OneOrder) (OrderRow, error) {
	rows, _ := m.pool.Query(ctx, `
		select `+orderColumns+`
		  from shop.orders
		 where id = $1`, q.Order)
	return exactlyOne[OrderRow](rows, order.ErrUnknown)
}

// orderSort is a way to sort orders. Orders with the same value are sorted by their id.
type orderSort struct {
	column, kind string
	descending   bool
	value        func(OrderRow) string // of the column
	isValue      func(string) bool
}

var orderSorts = map[string]orderSort{
	"date":   {"placed_on", "date", false, dateOf, isDate},
	"-date":  {"placed_on", "date", true, dateOf, isDate},
	"total":  {"total", "bigint", false, totalOf, isAmount},
	"-total": {"total", "bigint", true, totalOf, isAmount},
}

func dateOf(r OrderRow) string  { return string(r.PlacedOn) }
func totalOf(r OrderRow) string { return fmt.Sprint(r.Total) }

func (m *models) orders(ctx context.Context, q OrderList) ([]OrderRow, error) {
	sort := orderSorts[q.Sort]
	compare, direction := ">", "asc"
	if sort.descending {
		compare, direction = "<", "desc"
	}
	after := ""
	args := []any{q.Customer, nonNil(q.Statuses), q.From, q.To, q.Min, q.Max, q.Text, q.Currency, q.Limit}
	if len(q.After) == 2 {
		after = fmt.Sprintf(`and (%s, id) %s ($10::text::%s, $11)`, sort.column, compare, sort.kind)
		args = append(args, q.After[0], q.After[1])
	}
	rows, _ := m.pool.Query(ctx, `
		select `+orderColumns+`
		  from shop.orders
		 where customer = $1
		   and (cardinality($2::text[]) = 0 or status = any ($2))
		   and placed_on between coalesce(nullif($3, '')::date, '-infinity')
		                     and coalesce(nullif($4, '')::date, 'infinity')
		   and total between $5 and $6
		   and ($7 = '' or document @@ websearch_to_tsquery('simple', $7))
		   and ($8 = '' or currency = $8)
		   `+after+`
		 order by `+sort.column+` `+direction+`, id `+direction+`
		 limit $9`, args...)
	return pgx.CollectRows(rows, pgx.RowToStructByPos[OrderRow])
}

const customerColumns = `currency, orders, cancelled, returned, paid, refunded, last_order_on::text`

func (m *models) customer(ctx context.Context, q OneCustomer) ([]CustomerRow, error) {
	rows, _ := m.pool.Query(ctx, `
		select `+customerColumns+`
		  from shop.customers
		 where customer = $1
		 order by currency`, q.Customer)
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[CustomerRow])
	if err == nil && len(found) == 0 {
		err = ErrUnknownCustomer
	}
	return found, err
}

const itemColumns = `item, name, received, available, reserved, shipped, orders, coalesce(last_ordered_on::text, ''), version`

func (m *models) item(ctx context.Context, q OneItem) (ItemRow, error) {
	rows, _ := m.pool.Query(ctx, `
		select `+itemColumns+`
		  from shop.items
		 where item = $1`, q.Item)
	return exactlyOne[ItemRow](rows, stock.ErrUnknown)
}

func (m *models) items(ctx context.Context, q ItemList) ([]ItemRow, error) {
	rows, _ := m.pool.Query(ctx, `
		select `+itemColumns+`
		  from shop.items
		 where item > $1
		   and ($2 = '' or document @@ websearch_to_tsquery('simple', $2))
		 order by item
		 limit $3`, q.After, q.Text, q.Limit)
	return pgx.CollectRows(rows, pgx.RowToStructByPos[ItemRow])
}

func (m *models) days(ctx context.Context, q RevenueList) ([]DayRow, error) {
	after := append(slices.Clone(q.After), "", "")
	rows, _ := m.pool.Query(ctx, `
		select day::text, currency, sum(units)::bigint, sum(paid)::bigint, sum(refunded)::bigint, sum(paid - refunded)::bigint
		  from shop.revenue
		 where day between coalesce(nullif($1, '')::date, '-infinity')
		               and coalesce(nullif($2, '')::date, 'infinity')
		   and (day, currency) > (coalesce(nullif($3, '')::date, '-infinity'), $4)
		 group by day, currency
		 order by day, currency
		 limit $5`, q.From, q.To, after[0], after[1], q.Limit)
	return pgx.CollectRows(rows, pgx.RowToStructByPos[DayRow])
}

func (m *models) products(ctx context.Context, q RevenueList) ([]ProductRow, error) {
	after := append(slices.Clone(q.After), "", "")
	rows, _ := m.pool.Query(ctx, `
		select item, coalesce(i.name, item), r.currency, sum(r.units)::bigint, sum(r.paid)::bigint, sum(r.refunded)::bigint, sum(r.paid - r.refunded)::bigint
		  from shop.revenue r
		  left join shop.items i using (item) -- kept by another projection, which can be behind
		 where r.day between coalesce(nullif($1, '')::date, '-infinity')
		                 and coalesce(nullif($2, '')::date, 'infinity')
		   and (item, r.currency) > ($3, $4)
		 group by item, 2, r.currency
		 order by item, r.currency
		 limit $5`, q.From, q.To, after[0], after[1], q.Limit)
	return pgx.CollectRows(rows, pgx.RowToStructByPos[ProductRow])
}

// exactlyOne returns the only row, or the error none if there is no row.
func exactlyOne[R any](rows pgx.Rows, none error) (R, error) {
	row, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[R])
	if errors.Is(err, pgx.ErrNoRows) {
		err = none
	}
	return row, err
}

// nonNil returns an empty slice for nil. pgx would send nil as NULL, and cardinality(NULL) is NULL.
func nonNil(texts []string) []string { return append([]string{}, texts...) }
