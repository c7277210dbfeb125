package main

import (
	"errors"
	"net/http"

	"github.com/tidemark-es/tidemark/command"
	"github.com/tidemark-es/tidemark/examples/bank/account"
	"github.com/tidemark-es/tidemark/httpapi"
	"github.com/tidemark-es/tidemark/projection"
)

// Rows in a page: without a limit in the request, and at most.
const (
	usualPage = 50
	maxPage   = 1000
)

// api serves the bank over HTTP.
type api struct {
	bus      *command.Bus
	queries  *queries
	accounts *accounts
	runner   *projection.Runner
}

func (a *api) mux() (*httpapi.Mux, error) {
	mux, err := httpapi.NewMux(&httpapi.Config{Problems: problems, Members: members, TypePrefix: "urn:bank:"})
	if err != nil {
		return nil, err
	}
	mux.Handle("POST /accounts", a.open)
	mux.Handle("POST /accounts/{id}/deposits", a.deposit)
	mux.Handle("POST /accounts/{id}/withdrawals", a.withdraw)
	mux.Handle("POST /accounts/{id}/transfers", a.transfer)
	mux.Handle("POST /accounts/{id}/close", a.close)
	mux.Handle("GET /accounts", a.list)
	mux.Handle("GET /accounts/{id}", a.show)
	mux.Handle("GET /accounts/{id}/history", a.history)
	mux.Handle("GET /accounts/{id}/statement", a.statement)
	mux.Handle("GET /search", a.search)
	mux.Handle("GET /health", httpapi.Health(a.runner.Status))
	return mux, nil
}

// problems says which HTTP status and problem type a client gets for each error.
var problems = []httpapi.Problem{
	{Err: account.ErrUnknown, Status: http.StatusNotFound, Name: "unknown-account"},
	{Err: account.ErrExists, Status: http.StatusConflict, Name: "account-exists"},
	{Err: account.ErrClosed, Status: http.StatusConflict, Name: "account-closed"},
	{Err: account.ErrNotEmpty, Status: http.StatusConflict, Name: "account-not-empty"},
	{Err: account.ErrInsufficientFunds, Status: http.StatusUnprocessableEntity, Name: "insufficient-funds"},
	{Err: account.ErrTooMuch, Status: http.StatusUnprocessableEntity, Name: "account-full"},
	{Err: account.ErrSameAccount, Status: http.StatusUnprocessableEntity, Name: "same-account"},
	{Err: account.ErrAmount, Status: http.StatusUnprocessableEntity, Name: "invalid-amount"},
	{Err: account.ErrCurrency, Status: http.StatusUnprocessableEntity, Name: "invalid-currency"},
	{Err: account.ErrDate, Status: http.StatusUnprocessableEntity, Name: "invalid-date"},
	{Err: account.ErrText, Status: http.StatusUnprocessableEntity, Name: "invalid-text"},
	{Err: account.ErrID, Status: http.StatusUnprocessableEntity, Name: "invalid-account-id"},
}

// members returns the additional members of a problem document.
func members(err error) map[string]any {
	var funds *account.InsufficientFundsError
	if errors.As(err, &funds) {
		return map[string]any{"available": funds.Available} // in minor units
	}
	return nil
}
