package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

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
	closing  context.Context // done when the bank closes: nobody waits for a read model then
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
		mux.Handle(pattern, a.endpoint(handle))
	}
	return withProblems(mux)
}

// endpoint turns a function that may fail into a handler: it bounds the time of the work and the
// size of the body, puts metadata, idempotency key and position into the context, and writes problems.
func (a *api) endpoint(handle func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), maxTime)
		defer cancel()
		if r.Method == http.MethodGet {
			defer context.AfterFunc(a.closing, cancel)() // stops listening
		}
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
	if err := r.ParseForm(); err != nil {
		return nil, badRequest("the address: %v", err)
	}
	if !isText(r.URL.Path, r.Form) {
		return nil, badRequest("the address is not text in UTF-8")
	}
	ctx := eventstore.WithMetadata(r.Context(), eventstore.Metadata{
		CorrelationID: cmp.Or(header(r, "X-Request-Id"), uuid.NewString()),
		TraceParent:   header(r, "traceparent"),
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
		if refused.status < http.StatusBadRequest { // a redirect to a cleaner path
			w.WriteHeader(refused.status)
			return
		}
		writeProblem(w, r, &requestError{refused.status, "no-such-endpoint", r.Method + " " + r.URL.Path + " is not served here"})
	})
}

// refusal takes the mux's own answer and keeps only its headers and status.
type refusal struct {
	header http.Header
	status int
}

func (f *refusal) Header() http.Header { return f.header }

func (f *refusal) Write(p []byte) (int, error) { return len(p), nil }

func (f *refusal) WriteHeader(status int) { f.status = status }
