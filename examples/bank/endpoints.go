package main

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/examples/bank/account"
	"github.com/tidemark-es/tidemark/httpapi"
)

func (a *api) open(w http.ResponseWriter, r *http.Request) error {
	var body struct {
		Account string `json:"account"` // chosen by the client; if it is empty, by the service
		account.Opened
	}
	body.Date = account.Today()
	if err := httpapi.Decode(r, &body); err != nil {
		return err
	}
	id := cmp.Or(body.Account, httpapi.NewID(r))
	w.Header().Set("Location", "/accounts/"+url.PathEscape(id))
	return a.dispatch(w, r, http.StatusCreated, id, OpenAccount{id, body.Opened})
}

func (a *api) deposit(w http.ResponseWriter, r *http.Request) error {
	body := account.Booking{Date: account.Today()}
	id, seen, err := target(r, &body)
	if err != nil {
		return err
	}
	return a.dispatch(w, r, http.StatusOK, id, Deposit{id, seen, body})
}

func (a *api) withdraw(w http.ResponseWriter, r *http.Request) error {
	body := account.Booking{Date: account.Today()}
	id, seen, err := target(r, &body)
	if err != nil {
		return err
	}
	return a.dispatch(w, r, http.StatusOK, id, Withdraw{id, seen, body})
}

func (a *api) transfer(w http.ResponseWriter, r *http.Request) error {
	var body struct {
		To string `json:"to"`
		account.Booking
	}
	body.Date = account.Today()
	id, seen, err := target(r, &body)
	if err != nil {
		return err
	}
	return a.dispatch(w, r, http.StatusOK, id, Transfer{id, body.To, seen, body.Booking})
}

func (a *api) close(w http.ResponseWriter, r *http.Request) error {
	body := account.AccountClosed{Date: account.Today()}
	id, seen, err := target(r, &body)
	if err != nil {
		return err
	}
	return a.dispatch(w, r, http.StatusOK, id, CloseAccount{id, seen, body})
}

// target reads what all commands on an existing account have: its id, the version in If-Match and the body.
func target(r *http.Request, body any) (id string, seen eventstore.Version, err error) {
	if seen, err = httpapi.IfMatch(r); err != nil {
		return "", 0, err
	}
	return r.PathValue("id"), seen, httpapi.Decode(r, body)
}

// dispatch sends a command and answers with its receipt.
func (a *api) dispatch(w http.ResponseWriter, r *http.Request, status int, id string, c any) error {
	receipt, err := a.bus.Dispatch(r.Context(), c)
	if err != nil {
		return err
	}
	return httpapi.WriteReceipt(w, status, id, receipt)
}

// show answers from the aggregate itself, so that the client can send the ETag as If-Match. A command with the ETag of
// a past state is refused, as it must be.
func (a *api) show(w http.ResponseWriter, r *http.Request) error {
	loaded, err := a.load(r)
	if err != nil {
		return err
	}
	w.Header().Set("ETag", httpapi.ETag(loaded.Version))
	return httpapi.WriteJSON(w, http.StatusOK, struct {
		Account   string             `json:"account"`
		Owner     string             `json:"owner"`
		Currency  string             `json:"currency"`
		Overdraft int64              `json:"overdraft"`
		Balance   int64              `json:"balance"`
		Status    account.Status     `json:"status"`
		Version   eventstore.Version `json:"version"`
	}{r.PathValue("id"), loaded.State.Owner, loaded.State.Currency, loaded.State.Overdraft,
		loaded.State.Balance, loaded.State.Status, loaded.Version})
}

func (a *api) list(w http.ResponseWriter, r *http.Request) error {
	limit, err := httpapi.Limit(r, usualPage, maxPage)
	if err != nil {
		return err
	}
	rows, err := a.queries.accounts(r.Context(), AccountList{After: r.FormValue("after"), Limit: limit})
	if err != nil {
		return err
	}
	return httpapi.WritePage(w, "accounts", rows, limit, func(row AccountRow) string { return row.Account })
}

func (a *api) statement(w http.ResponseWriter, r *http.Request) error {
	q := Statement{
		Account: r.PathValue("id"),
		From:    account.Date(r.FormValue("from")),
		To:      account.Date(r.FormValue("to")),
		Types:   r.Form["type"],
	}
	var err error
	if q.Limit, err = httpapi.Limit(r, usualPage, maxPage); err != nil {
		return err
	}
	for _, kind := range q.Types {
		if !slices.Contains(entryTypes, kind) {
			return httpapi.BadRequest("type=%s: want one of %s", kind, strings.Join(entryTypes, ", "))
		}
	}
	for _, date := range []account.Date{q.From, q.To} {
		if date != "" && date.Validate() != nil {
			return httpapi.BadRequest("%v", date.Validate())
		}
	}
	if q.After, err = afterVersion(r); err != nil {
		return err
	}
	entries, err := a.queries.statement(r.Context(), q)
	if err != nil {
		return err
	}
	return httpapi.WritePage(w, "entries", entries, q.Limit, func(e Entry) string { return e.Version.String() })
}

func (a *api) search(w http.ResponseWriter, r *http.Request) error {
	limit, err := httpapi.Limit(r, usualPage, maxPage)
	if err != nil {
		return err
	}
	text := strings.TrimSpace(r.FormValue("q"))
	if text == "" || len(text) > 500 {
		return httpapi.BadRequest("q: want 1 to 500 bytes of text to search for")
	}
	hits, err := a.queries.search(r.Context(), Search{Text: text, Limit: limit})
	if err != nil {
		return err
	}
	return httpapi.WritePage(w, "hits", hits, limit, nil)
}
