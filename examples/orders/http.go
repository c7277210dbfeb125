package main

import (
	"errors"
	"net/http"

	"github.com/tidemark-es/tidemark/command"
	"github.com/tidemark-es/tidemark/examples/orders/order"
	"github.com/tidemark-es/tidemark/examples/orders/stock"
	"github.com/tidemark-es/tidemark/httpapi"
	"github.com/tidemark-es/tidemark/projection"
)

// Rows in a page: without a limit in the request, and at most.
const (
	usualPage = 50
	maxPage   = 1000
)

// api serves the orders over HTTP.
type api struct {
	bus     *command.Bus
	queries *queries
	runner  *projection.Runner
}

func (a *api) mux() (*httpapi.Mux, error) {
	mux, err := httpapi.NewMux(&httpapi.Config{Problems: problems, Members: members, TypePrefix: "urn:orders:"})
	if err != nil {
		return nil, err
	}
	mux.Handle("POST /items/{id}/receipts", a.receive)
	mux.Handle("GET /items", a.items)
	mux.Handle("GET /items/{id}", a.item)
	mux.Handle("POST /orders", a.place)
	mux.Handle("POST /orders/{id}/payment", a.pay)
	mux.Handle("POST /orders/{id}/shipment", a.ship)
	mux.Handle("POST /orders/{id}/delivery", a.deliver)
	mux.Handle("POST /orders/{id}/cancellation", a.cancel)
	mux.Handle("POST /orders/{id}/return", a.takeBack)
	mux.Handle("GET /orders/{id}", a.order)
	mux.Handle("GET /customers/{id}", a.customer)
	mux.Handle("GET /customers/{id}/orders", a.orders)
	mux.Handle("GET /revenue/days", a.days)
	mux.Handle("GET /revenue/products", a.products)
	mux.Handle("GET /health", httpapi.Health(a.runner.Status))
	return mux, nil
}

// problems says which HTTP status and problem type a client gets for each error.
var problems = []httpapi.Problem{
	{Err: order.ErrUnknown, Status: http.StatusNotFound, Name: "unknown-order"},
	{Err: stock.ErrUnknown, Status: http.StatusNotFound, Name: "unknown-item"},
	{Err: ErrUnknownCustomer, Status: http.StatusNotFound, Name: "unknown-customer"},
	{Err: order.ErrExists, Status: http.StatusConflict, Name: "order-exists"},
	{Err: order.ErrState, Status: http.StatusConflict, Name: "wrong-state"},
	{Err: stock.ErrOutOfStock, Status: http.StatusConflict, Name: "out-of-stock"},
	{Err: order.ErrWrongPayment, Status: http.StatusUnprocessableEntity, Name: "wrong-payment"},
	{Err: order.ErrLines, Status: http.StatusUnprocessableEntity, Name: "invalid-lines"},
	{Err: order.ErrCurrency, Status: http.StatusUnprocessableEntity, Name: "invalid-currency"},
	{Err: order.ErrDate, Status: http.StatusUnprocessableEntity, Name: "invalid-date"},
	{Err: stock.ErrQuantity, Status: http.StatusUnprocessableEntity, Name: "invalid-quantity"},
	{Err: ErrID, Status: http.StatusUnprocessableEntity, Name: "invalid-id"},
	{Err: ErrText, Status: http.StatusUnprocessableEntity, Name: "invalid-text"},
}

// members returns the additional members of a problem document.
func members(err error) map[string]any {
	told := make(map[string]any)
	var line *LineError
	if errors.As(err, &line) {
		told["item"] = line.Item
	}
	var out *stock.OutOfStockError
	if errors.As(err, &out) {
		told["available"] = out.Available
	}
	var state *order.StateError
	if errors.As(err, &state) {
		told["state"] = state.Status // "status" is the HTTP status
	}
	var payment *order.WrongPaymentError
	if errors.As(err, &payment) {
		told["due"], told["currency"] = payment.Due, payment.Currency // in minor units
	}
	return told
}
