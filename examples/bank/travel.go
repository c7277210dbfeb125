package main

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/tidemark-es/tidemark/aggregate"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/examples/bank/account"
	"github.com/tidemark-es/tidemark/httpapi"
)

type loadedAccount = aggregate.Loaded[account.Account, account.Event]

// load returns the present state of the account or, if a parameter asks for it, a past state.
func (a *api) load(r *http.Request) (*loadedAccount, error) {
	id := r.PathValue("id")
	asked, value, err := askedMoment(r)
	if err != nil {
		return nil, err
	}
	loaded, err := a.loadMoment(r.Context(), id, asked, value)
	switch {
	case err != nil:
		return nil, err
	case loaded.State.Status != "":
		return loaded, nil
	case asked != "": // it may have been opened later
		return nil, fmt.Errorf("%w (%s=%s)", account.ErrUnknown, asked, value)
	}
	return nil, account.ErrUnknown
}

func (a *api) loadMoment(ctx context.Context, id, asked, value string) (*loadedAccount, error) {
	switch asked {
	case "version":
		return a.loadVersion(ctx, id, value)
	case "at":
		at, err := time.Parse(time.RFC3339, value)
		if err != nil {
			return nil, httpapi.BadRequest("at=%s: want a time such as 2026-03-01T12:00:00Z; send a + as %%2B", value)
		}
		return a.accounts.LoadAsOf(ctx, id, at)
	case "position":
		position, err := eventstore.ParsePosition(value)
		if err != nil {
			return nil, err
		}
		return a.accounts.LoadThrough(ctx, id, position)
	}
	return a.accounts.Load(ctx, id)
}

func (a *api) loadVersion(ctx context.Context, id, value string) (*loadedAccount, error) {
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil || n < 1 {
		return nil, httpapi.BadRequest("version=%s: want a number from 1", value)
	}
	loaded, err := a.accounts.LoadVersion(ctx, id, eventstore.Version(n))
	if err == nil && 0 < loaded.Version && loaded.Version < eventstore.Version(n) {
		return nil, &httpapi.Error{
			Status: http.StatusNotFound, Name: "unknown-version",
			Detail: fmt.Sprintf("the account is at version %d", loaded.Version),
		}
	}
	return loaded, err
}

// askedMoment returns the name and the value of the parameter that asks for a past state. The name is empty if the
// request asks for the present state.
func askedMoment(r *http.Request) (asked, value string, err error) {
	for _, name := range []string{"version", "at", "position"} {
		for _, given := range r.Form[name] {
			if asked != "" {
				return "", "", httpapi.BadRequest("version, at, position: want one of them, once")
			}
			asked, value = name, given
		}
	}
	return asked, value, nil
}

// Moment is a line of an account's history.
type Moment struct {
	Version eventstore.Version `json:"version"`
	At      time.Time          `json:"at"`   // when Postgres has recorded the event
	Type    string             `json:"type"` // of the event, as it is stored
	Balance int64              `json:"balance"`
}

// history answers with the events of the account and the balance after each.
func (a *api) history(w http.ResponseWriter, r *http.Request) error {
	ctx, id := r.Context(), r.PathValue("id")
	limit, err := httpapi.Limit(r, usualPage, maxPage)
	if err != nil {
		return err
	}
	after, err := afterVersion(r)
	if err != nil {
		return err
	}
	var moments []Moment
	for step, err := range a.accounts.History(ctx, id, after, after+eventstore.Version(limit)) {
		if err != nil {
			return err
		}
		moments = append(moments, Moment{step.Event.Version, step.Event.RecordedAt, step.Event.Type, step.State.Balance})
	}
	if len(moments) == 0 { // after the last event, or there is no such account
		if loaded, err := a.accounts.LoadVersion(ctx, id, 1); err != nil || loaded.Version == eventstore.NoStream {
			return firstOf(err, account.ErrUnknown)
		}
	}
	return httpapi.WritePage(w, "history", moments, limit, func(m Moment) string { return m.Version.String() })
}

// afterVersion reads the parameter after of a query whose rows are sorted by version.
func afterVersion(r *http.Request) (eventstore.Version, error) {
	text := r.FormValue("after")
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 62) // 62 bits, so that adding a page cannot overflow
	if err != nil {
		return 0, httpapi.BadRequest("after=%s: want the value of next from an earlier page", text)
	}
	return eventstore.Version(n), nil
}
