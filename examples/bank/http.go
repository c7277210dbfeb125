package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/tidemark-es/tidemark/aggregate"
	"github.com/tidemark-es/tidemark/command"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/examples/bank/account"
	"github.com/tidemark-es/tidemark/projection"
	"github.com/tidemark-es/tidemark/query"
)

const (
	maxBody    = 64 << 10
	maxTime    = 10 * time.Second // for one request
	maxPage    = 1000
	pageSize   = 50
	positionOf = "Tidemark-Position" // in an answer: where its events are; in a query: wait for them
)

// api serves the bank over HTTP.
type api struct {
	bus      *command.Bus
	queries  *queries
	accounts *aggregate.Repository[account.Account, account.Event]
	runner   *projection.Runner
}

func (a *api) handler() http.Handler {
	mux := http.NewServeMux()
	for pattern, handle := range map[string]func(http.ResponseWriter, *http.Request) error{
		"POST /accounts":                  a.open,
		"POST /accounts/{id}/deposits":    a.deposit,
		"POST /accounts/{id}/withdrawals": a.withdraw,
		"POST /accounts/{id}/transfers":   a.transfer,
		"POST /accounts/{id}/close":       a.close,
		"GET /accounts":                   a.list,
		"GET /accounts/{id}":              a.show,
		"GET /accounts/{id}/statement":    a.statement,
		"GET /search":                     a.search,
		"GET /health":                     a.health,
	} {
		mux.Handle(pattern, endpoint(handle))
	}
	return withProblems(mux)
}

// endpoint turns a function that may fail into a handler: it bounds the request's time and
// body, puts metadata, idempotency key and position into the context, and writes problems.
func endpoint(handle func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), maxTime)
		defer cancel()
		r = r.WithContext(ctx)
		prepared, err := prepare(w, r)
		if err == nil {
			err = handle(w, prepared)
		}
		if err != nil {
			writeProblem(w, r, err)
		}
	})
}

func prepare(w http.ResponseWriter, r *http.Request) (*http.Request, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return nil, &requestError{http.StatusRequestEntityTooLarge, "too-large", fmt.Sprintf("the body has more than %d bytes", maxBody)}
		}
		return nil, badRequest("the body cannot be read: %v", err)
	}
	if err := r.ParseForm(); err != nil || !isText(r.URL.Path, r.Form) {
		return nil, badRequest("the address is not text in UTF-8")
	}
	ctx := eventstore.WithMetadata(r.Context(), eventstore.Metadata{
		CorrelationID: requestID(r),
		TraceParent:   r.Header.Get("traceparent"),
	})
	if key := r.Header.Get("Idempotency-Key"); key != "" && r.Method == http.MethodPost {
		if len(key) > 200 {
			return nil, badRequest("Idempotency-Key has more than 200 bytes")
		}
		ctx = eventstore.WithKey(ctx, "http/"+key, append([]byte(r.Method+" "+r.URL.Path+"\n"), body...))
	}
	if text := r.Header.Get(positionOf); text != "" {
		position, err := eventstore.ParsePosition(text)
		if err != nil {
			return nil, err
		}
		ctx = query.AtLeast(ctx, position)
	}
	r = r.WithContext(ctx)
	r.Body = io.NopCloser(bytes.NewReader(body))
	return r, nil
}

// isText reports whether Postgres can store what the address says.
func isText(path string, form url.Values) bool {
	texts := []string{path}
	for _, values := range form {
		texts = append(texts, values...)
	}
	return !slices.ContainsFunc(texts, func(text string) bool {
		return !utf8.ValidString(text) || strings.ContainsRune(text, 0)
	})
}

func requestID(r *http.Request) string {
	if id := r.Header.Get("X-Request-Id"); id != "" && len(id) <= 200 && utf8.ValidString(id) {
		return id
	}
	return uuid.NewString()
}

func (a *api) open(w http.ResponseWriter, r *http.Request) error {
	var body struct {
		Account string `json:"account"` // chosen by the client, or else by us
		account.Opened
	}
	if err := decode(r, &body); err != nil {
		return err
	}
	id := body.Account
	if key, ok := eventstore.KeyFrom(r.Context()); id == "" && ok {
		id = uuid.NewSHA1(uuid.NameSpaceURL, []byte(key.Name)).String() // a repeat must name the same account
	} else if id == "" {
		id = uuid.NewString()
	}
	body.Date = orToday(body.Date)
	w.Header().Set("Location", "/accounts/"+url.PathEscape(id))
	return a.dispatch(w, r, http.StatusCreated, id, OpenAccount{id, body.Opened})
}

func (a *api) deposit(w http.ResponseWriter, r *http.Request) error {
	var body account.Booking
	id, seen, err := target(r, &body)
	if err != nil {
		return err
	}
	body.Date = orToday(body.Date)
	return a.dispatch(w, r, http.StatusOK, id, Deposit{id, seen, body})
}

func (a *api) withdraw(w http.ResponseWriter, r *http.Request) error {
	var body account.Booking
	id, seen, err := target(r, &body)
	if err != nil {
		return err
	}
	body.Date = orToday(body.Date)
	return a.dispatch(w, r, http.StatusOK, id, Withdraw{id, seen, body})
}

func (a *api) transfer(w http.ResponseWriter, r *http.Request) error {
	var body struct {
		To string `json:"to"`
		account.Booking
	}
	id, seen, err := target(r, &body)
	if err != nil {
		return err
	}
	body.Date = orToday(body.Date)
	return a.dispatch(w, r, http.StatusOK, id, Transfer{id, body.To, seen, body.Booking})
}

func (a *api) close(w http.ResponseWriter, r *http.Request) error {
	var body account.AccountClosed
	id, seen, err := target(r, &body)
	if err != nil {
		return err
	}
	body.Date = orToday(body.Date)
	return a.dispatch(w, r, http.StatusOK, id, CloseAccount{id, seen, body})
}

// dispatch sends a command and answers with its receipt.
func (a *api) dispatch(w http.ResponseWriter, r *http.Request, status int, id string, c any) error {
	receipt, err := a.bus.Dispatch(r.Context(), c)
	if err != nil {
		w.Header().Del("Location")
		return err
	}
	w.Header().Set("ETag", etag(receipt.Version))
	w.Header().Set(positionOf, receipt.Position.String())
	return writeJSON(w, status, struct {
		Account  string              `json:"account"`
		Version  eventstore.Version  `json:"version"`
		Position eventstore.Position `json:"position"`
	}{id, receipt.Version, receipt.Position})
}

// show answers from the aggregate itself, so that the version is the one to send as If-Match.
func (a *api) show(w http.ResponseWriter, r *http.Request) error {
	loaded, err := a.accounts.Load(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	if loaded.State.Status == "" {
		return account.ErrUnknown
	}
	w.Header().Set("ETag", etag(loaded.Version))
	return writeJSON(w, http.StatusOK, struct {
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
	limit, err := limitOf(r)
	if err != nil {
		return err
	}
	rows, err := a.queries.accounts(r.Context(), AccountList{After: r.FormValue("after"), Limit: limit})
	if err != nil {
		return err
	}
	return writePage(w, "accounts", rows, limit, func(row AccountRow) string { return row.Account })
}

func (a *api) statement(w http.ResponseWriter, r *http.Request) error {
	q := Statement{
		Account: r.PathValue("id"),
		From:    account.Date(r.FormValue("from")),
		To:      account.Date(r.FormValue("to")),
		Types:   r.Form["type"],
	}
	var err error
	if q.Limit, err = limitOf(r); err != nil {
		return err
	}
	for _, date := range []account.Date{q.From, q.To} {
		if date != "" && date.Validate() != nil {
			return badRequest("%v", date.Validate())
		}
	}
	if after := r.FormValue("after"); after != "" {
		n, err := strconv.ParseInt(after, 10, 64)
		if err != nil || n < 0 {
			return badRequest("after=%s: want the next of an earlier page", after)
		}
		q.After = eventstore.Version(n)
	}
	entries, err := a.queries.statement(r.Context(), q)
	if err != nil {
		return err
	}
	return writePage(w, "entries", entries, q.Limit, func(e Entry) string { return e.Version.String() })
}

func (a *api) search(w http.ResponseWriter, r *http.Request) error {
	limit, err := limitOf(r)
	if err != nil {
		return err
	}
	text := strings.TrimSpace(r.FormValue("q"))
	if text == "" || len(text) > 500 {
		return badRequest("q: want 1 to 500 bytes of text to search for")
	}
	hits, err := a.queries.search(r.Context(), Search{Text: text, Limit: limit})
	if err != nil {
		return err
	}
	return writePage(w, "hits", hits, limit, nil)
}

// health is for readiness probes: 503 while a read model is failing.
func (a *api) health(w http.ResponseWriter, _ *http.Request) error {
	type model struct {
		Name       string              `json:"name"`
		Checkpoint eventstore.Position `json:"checkpoint"`
		Error      string              `json:"error,omitempty"`
	}
	status, models := http.StatusOK, []model{}
	for _, s := range a.runner.Status() {
		m := model{Name: s.Name, Checkpoint: s.Checkpoint}
		if s.Err != nil {
			status, m.Error = http.StatusServiceUnavailable, s.Err.Error()
		}
		models = append(models, m)
	}
	return writeJSON(w, status, map[string]any{"projections": models})
}

// target reads what the commands on one account have in common: its id, the version in If-Match
// and the body.
func target(r *http.Request, body any) (id string, seen eventstore.Version, err error) {
	id, seen = r.PathValue("id"), eventstore.Any
	switch match := r.Header.Get("If-Match"); match {
	case "":
	case "*":
		seen = eventstore.Any // an account that does not exist is refused anyway
	default:
		n, err := strconv.ParseInt(strings.Trim(match, `"`), 10, 64)
		if err != nil || n < 1 || etag(eventstore.Version(n)) != match {
			return "", 0, badRequest(`If-Match: %s: want the ETag of an account, such as "3"`, match)
		}
		seen = eventstore.Version(n)
	}
	return id, seen, decode(r, body)
}

// decode reads a body that holds one JSON object and nothing that we do not know.
func decode(r *http.Request, into any) error {
	if kind := r.Header.Get("Content-Type"); kind != "" {
		if base, _, err := mime.ParseMediaType(kind); err != nil || base != "application/json" {
			return &requestError{http.StatusUnsupportedMediaType, "not-json", "Content-Type: want application/json"}
		}
	}
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return badRequest("the body is not what is wanted here: %v", err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return badRequest("the body holds more than one JSON object")
	}
	return nil
}

func badRequest(format string, args ...any) error {
	return &requestError{http.StatusBadRequest, "invalid-request", fmt.Sprintf(format, args...)}
}

func etag(v eventstore.Version) string { return `"` + v.String() + `"` }

func orToday(d account.Date) account.Date {
	if d == "" {
		return account.Today()
	}
	return d
}

func limitOf(r *http.Request) (int, error) {
	text := r.FormValue("limit")
	if text == "" {
		return pageSize, nil
	}
	limit, err := strconv.Atoi(text)
	if err != nil || limit < 1 || limit > maxPage {
		return 0, badRequest("limit=%s: want 1 to %d", text, maxPage)
	}
	return limit, nil
}

// writePage answers with rows and, if there may be more, with what to send as after.
func writePage[R any](w http.ResponseWriter, name string, rows []R, limit int, key func(R) string) error {
	page := map[string]any{name: append([]R{}, rows...)}
	if key != nil && len(rows) == limit {
		page["next"] = key(rows[limit-1])
	}
	return writeJSON(w, http.StatusOK, page)
}

func writeJSON(w http.ResponseWriter, status int, body any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n')) // the client has gone
	return nil
}

// withProblems answers with a problem document where the mux itself says no: 404 and 405.
func withProblems(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, pattern := mux.Handler(r); pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		refused := &refusal{header: w.Header(), status: http.StatusNotFound}
		mux.ServeHTTP(refused, r)
		writeProblem(w, r, &requestError{refused.status, "no-such-endpoint", r.Method + " " + r.URL.Path + " is not served here"})
	})
}

// refusal takes the mux's own answer and keeps only its headers and status.
type refusal struct {
	header http.Header
	status int
}

func (f *refusal) Header() http.Header         { return f.header }
func (f *refusal) Write(p []byte) (int, error) { return len(p), nil }
func (f *refusal) WriteHeader(status int)      { f.status = status }
