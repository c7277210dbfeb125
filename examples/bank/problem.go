package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/examples/bank/account"
	"github.com/tidemark-es/tidemark/query"
)

// problem is an error as a client sees it: a problem document of RFC 9457.
type problem struct {
	Type      string `json:"type"`
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Detail    string `json:"detail,omitempty"`
	Available *int64 `json:"available,omitempty"` // what could be taken out, in minor units
}

// requestError is a request that makes no sense, found before anything is done.
type requestError struct {
	status int
	name   string
	detail string
}

func (e *requestError) Error() string { return e.detail }

// problems says which error means what. The first that fits counts.
var problems = []struct {
	err    error
	status int
	name   string
}{
	{account.ErrUnknown, http.StatusNotFound, "unknown-account"},
	{account.ErrExists, http.StatusConflict, "account-exists"},
	{account.ErrClosed, http.StatusConflict, "account-closed"},
	{account.ErrNotEmpty, http.StatusConflict, "account-not-empty"},
	{account.ErrInsufficientFunds, http.StatusUnprocessableEntity, "insufficient-funds"},
	{account.ErrTooMuch, http.StatusUnprocessableEntity, "account-full"},
	{account.ErrSameAccount, http.StatusUnprocessableEntity, "same-account"},
	{account.ErrAmount, http.StatusUnprocessableEntity, "invalid-amount"},
	{account.ErrCurrency, http.StatusUnprocessableEntity, "invalid-currency"},
	{account.ErrDate, http.StatusUnprocessableEntity, "invalid-date"},
	{account.ErrText, http.StatusUnprocessableEntity, "invalid-text"},
	{account.ErrID, http.StatusUnprocessableEntity, "invalid-account-id"},
	{eventstore.ErrKeyReused, http.StatusUnprocessableEntity, "idempotency-key-reused"},
	{eventstore.ErrInvalid, http.StatusBadRequest, "invalid-request"},
	{query.ErrBehind, http.StatusServiceUnavailable, "read-model-behind"},
	{context.DeadlineExceeded, http.StatusServiceUnavailable, "timeout"},
}

// newProblem finds out what an error means for the client.
func newProblem(r *http.Request, err error) problem {
	of := func(status int, name, detail string) problem {
		return problem{Type: "urn:bank:" + name, Title: http.StatusText(status), Status: status, Detail: detail}
	}
	var bad *requestError
	if errors.As(err, &bad) {
		return of(bad.status, bad.name, bad.detail)
	}
	if errors.Is(err, eventstore.ErrConflict) {
		// Asked for a version: the precondition failed. Otherwise others were faster, too often.
		if match := r.Header.Get("If-Match"); match != "" && match != "*" {
			return of(http.StatusPreconditionFailed, "version-conflict", err.Error())
		}
		return of(http.StatusConflict, "version-conflict", err.Error())
	}
	for _, known := range problems {
		if errors.Is(err, known.err) {
			p := of(known.status, known.name, err.Error())
			var funds *account.InsufficientFundsError
			if errors.As(err, &funds) {
				p.Available = &funds.Available
			}
			return p
		}
	}
	return problem{Type: "about:blank", Title: http.StatusText(http.StatusInternalServerError), Status: http.StatusInternalServerError}
}

func writeProblem(w http.ResponseWriter, r *http.Request, err error) {
	p := newProblem(r, err)
	switch {
	case p.Status == http.StatusServiceUnavailable:
		// A command without a key may have been done: to repeat it would be a second one.
		if r.Method == http.MethodGet || r.Header.Get("Idempotency-Key") != "" {
			w.Header().Set("Retry-After", "1")
		}
	case p.Status >= http.StatusInternalServerError && r.Context().Err() == nil:
		slog.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the client has gone
}
