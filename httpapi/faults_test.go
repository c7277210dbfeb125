package httpapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/google/uuid"

	"github.com/tidemark-es/tidemark/aggregate"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/eventstore/eventstoretest"
	"github.com/tidemark-es/tidemark/httpapi"
	"github.com/tidemark-es/tidemark/internal/pgtest"
	"github.com/tidemark-es/tidemark/projection"
	"github.com/tidemark-es/tidemark/query"
)

// logged returns a configuration that logs into a buffer.
func logged() (*httpapi.Config, *bytes.Buffer) {
	output := new(bytes.Buffer)
	return &httpapi.Config{Logger: slog.New(slog.NewTextHandler(output, nil))}, output
}

// unreadable is a reader that returns only an error.
type unreadable struct{}

func (unreadable) Read([]byte) (int, error) { return 0, errors.New("secret") }

// TestPanic: a panic before the answer has begun is a problem document. A later panic aborts the answer, and so does
// http.ErrAbortHandler.
func TestPanic(t *testing.T) {
	t.Parallel()
	for name, panics := range map[string]httpapi.Handler{
		"text":        func(http.ResponseWriter, *http.Request) error { panic("secret") },
		"nil":         func(http.ResponseWriter, *http.Request) error { panic(nil) },
		"error":       func(http.ResponseWriter, *http.Request) error { panic(eventstore.ErrInvalid) },
		"index":       func(http.ResponseWriter, *http.Request) error { var none []int; _ = none[len(none)]; return nil },
		"early hints": func(w http.ResponseWriter, _ *http.Request) error { w.WriteHeader(103); panic("secret") },
		"promises": func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Content-Length", "1")
			panic("secret")
		},
		"no such code":  func(w http.ResponseWriter, _ *http.Request) error { w.WriteHeader(1000); return nil },
		"unread reader": func(w http.ResponseWriter, _ *http.Request) error { _, err := io.Copy(w, unreadable{}); return err },
		"typed nil":     returning((*httpapi.Error)(nil)),
		"no status":     returning(&httpapi.Error{Name: "secret"}),
		"bad error":     returning((*broken)(nil)),
	} {
		config, output := logged()
		config.Members = func(error) map[string]any { panic("members") }
		config.Problems = []httpapi.Problem{{Err: errBroken, Status: 418, Name: "x"}}
		server := httptest.NewServer(handle(config, panics))
		answer, err := http.Post(server.URL, "", nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		body, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		server.Close() // the log is complete
		if want := `{"type":"about:blank","title":"Internal Server Error","status":500}` + "\n"; answer.StatusCode != 500 || string(body) != want || err != nil {
			t.Errorf("%s: %d %s, %v, want %s", name, answer.StatusCode, body, err, want)
		}
		if !strings.Contains(output.String(), "level=ERROR") {
			t.Errorf("%s: the log says %q", name, output)
		}
		if name == "text" && (!strings.Contains(output.String(), "secret") || !strings.Contains(output.String(), "faults_test.go")) {
			t.Errorf("%s: the log says %q, want the panic and its stack", name, output)
		}
	}
	begin := func(w http.ResponseWriter) {
		_, _ = w.Write([]byte("begun"))
		_ = http.NewResponseController(w).Flush()
	}
	for name, aborts := range map[string]httpapi.Handler{
		"on purpose":         func(http.ResponseWriter, *http.Request) error { panic(http.ErrAbortHandler) },
		"panic when begun":   func(w http.ResponseWriter, _ *http.Request) error { begin(w); panic("secret") },
		"members when begun": func(w http.ResponseWriter, _ *http.Request) error { begin(w); return errBroken },
		"error when begun":   func(w http.ResponseWriter, _ *http.Request) error { begin(w); return errors.New("secret") },
	} {
		config, output := logged()
		if name == "members when begun" {
			config.Members = func(error) map[string]any { panic("members") }
			config.Problems = []httpapi.Problem{{Err: errBroken, Status: 418, Name: "x"}}
		}
		server := httptest.NewServer(handle(config, aborts))
		answer, err := http.Get(server.URL)
		if err == nil {
			var body []byte
			body, err = io.ReadAll(answer.Body)
			if _ = answer.Body.Close(); string(body) != "begun" {
				t.Errorf("%s: %s", name, body)
			}
		}
		server.Close() // the log is complete
		if err == nil || strings.Contains(output.String(), "level=ERROR") == (name == "on purpose") {
			t.Errorf("%s: %v, log %s; want the answer cut off", name, err, output)
		}
	}
}

var errBroken = errors.New("broken")

// broken is an error that panics.
type broken struct{ text string }

func (b *broken) Error() string   { return b.text }
func (b *broken) Is(e error) bool { return e == errBroken }

// TestRegistration: a route that cannot be registered panics at once, with its name.
func TestRegistration(t *testing.T) {
	t.Parallel()
	var none func(http.ResponseWriter, *http.Request) error
	for name, register := range map[string]func(*httpapi.Mux){
		`"GET /a"`: func(m *httpapi.Mux) { m.Handle("GET /a", nil) },
		`"GET /b"`: func(m *httpapi.Mux) { m.Handle("GET /b", none) },
		`"GET /c"`: func(m *httpapi.Mux) { m.HandleStream("GET /c", nil) },
		`""`:       func(m *httpapi.Mux) { m.Handle("", returning(nil)) },
		`"GET"`:    func(m *httpapi.Mux) { m.Handle("GET", returning(nil)) },
		`"GET /{"`: func(m *httpapi.Mux) { m.Handle("GET /{", returning(nil)) },
		`"GET /t"`: func(m *httpapi.Mux) { m.Handle("GET /t", returning(nil)); m.Handle("GET /t", returning(nil)) },
		"Health":   func(*httpapi.Mux) { httpapi.Health(nil) },
		"MaxBody":  func(*httpapi.Mux) { made(httpapi.NewMux(&httpapi.Config{MaxBody: -1})) },
		"Timeout":  func(*httpapi.Mux) { made(httpapi.NewMux(&httpapi.Config{Timeout: -1})) },
	} {
		func() {
			defer func() {
				if p := recover(); p == nil || !strings.Contains(fmt.Sprint(p), name) {
					t.Errorf("%s: panic %v, want one that names it", name, p)
				}
			}()
			register(made(httpapi.NewMux(nil)))
		}()
	}
}

// TestStream: a stream is not cut off by the timeout, can flush, and ends with Close or with the client.
func TestStream(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"GET", "POST"} {
		for _, end := range []string{"client", "close"} {
			synctest.Test(t, func(t *testing.T) {
				mux := made(httpapi.NewMux(nil))
				ended := make(chan time.Duration, 1)
				mux.HandleStream("/", func(w http.ResponseWriter, r *http.Request) error {
					start := time.Now()
					if _, err := io.WriteString(w, "data: 1\n\n"); err != nil {
						return err
					}
					if err := http.NewResponseController(w).Flush(); err != nil {
						t.Errorf("flush: %v", err)
					}
					if _, ok := w.(http.Flusher); !ok {
						t.Error("not a Flusher")
					}
					<-r.Context().Done()
					ended <- time.Since(start)
					return nil
				})
				ctx, cancel := context.WithCancel(t.Context())
				stop := map[string]func(){"client": cancel, "close": mux.Close}[end]
				time.AfterFunc(time.Hour, stop)
				answer := httptest.NewRecorder()
				mux.ServeHTTP(answer, httptest.NewRequestWithContext(ctx, method, "/", nil))
				if took := <-ended; took != time.Hour || !answer.Flushed || answer.Body.String() != "data: 1\n\n" {
					t.Errorf("%s: it ended after %v, flushed %v: %s", method, took, answer.Flushed, answer.Body)
				}
				cancel()
			})
		}
	}
}

// TestHijack: a handler can take the connection over.
func TestHijack(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(handle(nil, func(w http.ResponseWriter, _ *http.Request) error {
		if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Errorf("deadline: %v", err)
		}
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return err
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 299 Mine\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		return conn.Close()
	}))
	defer server.Close()
	answer, err := http.Get(server.URL)
	if err != nil || answer.StatusCode != 299 {
		t.Errorf("%v, %v", answer, err)
	}
}

// TestTwoUpdates: a handler that appends twice under one key fails each time. It never answers 200 while the second
// stream is not stored.
func TestTwoUpdates(t *testing.T) {
	t.Parallel()
	store := eventstoretest.NewMemory()
	repo := made(aggregate.NewRepository(store, definition, nil))
	config, output := logged()
	mux := handle(config, func(w http.ResponseWriter, r *http.Request) (err error) {
		var receipt eventstore.Receipt
		for _, id := range []string{"a", "b"} {
			receipt, err = repo.Update(r.Context(), id, func(*tally) ([]counted, error) { return []counted{{1}}, nil })
			if err != nil {
				return err
			}
		}
		return httpapi.WriteReceipt(w, 200, "a", receipt)
	})
	for range 2 {
		answer := ask(mux, "POST", "/", "", "Idempotency-Key", "k")
		wantProblem(t, "two updates", answer, 500, "about:blank")
		if !strings.Contains(output.String(), "tally-a") || !strings.Contains(output.String(), "tally-b") {
			t.Errorf("the log says %s, want both streams", output)
		}
		output.Reset()
	}
	if answer := ask(mux, "POST", "/", ""); answer.Code != 200 {
		t.Errorf("without a key: %d %s", answer.Code, answer.Body)
	}
}

// TestPrincipal: a key belongs to its caller, and the caller is never stored in clear.
func TestPrincipal(t *testing.T) {
	t.Parallel()
	hook := func(r *http.Request) string { return r.Header.Get("X-User") }
	for header, config := range map[string]*httpapi.Config{"Authorization": nil, "X-User": {Principal: hook}} {
		var names []string
		mux := handle(config, func(w http.ResponseWriter, r *http.Request) error {
			key, _ := eventstore.KeyFrom(r.Context())
			names = append(names, key.Name)
			return key.Validate()
		})
		long := strings.Repeat("k", 200)
		for _, who := range []string{"", "Basic YTpi", "Basic YTpj", strings.Repeat("x", 5000), "Basic YTpi"} {
			if answer := ask(mux, "POST", "/", "", "Idempotency-Key", long, header, who); answer.Code != 200 {
				t.Errorf("%s %.20s: %d %s", header, who, answer.Code, answer.Body)
			}
		}
		distinct := map[string]bool{}
		for _, name := range names {
			distinct[name] = true
			if strings.Contains(name, "YTp") {
				t.Errorf("%s: %s is stored in clear", header, name)
			}
		}
		if len(names) != 5 || len(distinct) != 4 || names[1] != names[4] {
			t.Errorf("%s: names %q, want another one for each caller", header, names)
		}
	}
	store := eventstoretest.NewMemory()
	mux := newTallies(store)
	first := ask(mux, "POST", "/tallies/a", `{"n":1}`, "Idempotency-Key", "k", "Authorization", "one").Body.String()
	other := ask(mux, "POST", "/tallies/a", `{"n":1}`, "Idempotency-Key", "k", "Authorization", "two").Body.String()
	if again := ask(mux, "POST", "/tallies/a", `{"n":1}`, "Idempotency-Key", "k", "Authorization", "one").Body.String(); again != first || other == first {
		t.Errorf("first %s, another caller %s, repeated %s", first, other, again)
	}
}

// TestRepeatedHeaders: a header that decides about the request is refused when it was sent twice. A header that is only
// stored is replaced.
func TestRepeatedHeaders(t *testing.T) {
	t.Parallel()
	mux := handle(nil, returning(nil))
	for _, header := range []string{"Idempotency-Key", "If-Match", httpapi.PositionHeader} {
		wantProblem(t, header, ask(mux, "POST", "/", "", header, `"1"`, header, `"1"`), 400, "urn:problem:invalid-request")
	}
	answer := ask(mux, "POST", "/", "", "X-Request-Id", "a", "X-Request-Id", "b")
	if id := answer.Header().Get("X-Request-Id"); answer.Code != 200 || len(id) < 30 || answer.Header().Get("X-Request-Id-Replaced") == "" {
		t.Errorf("%d %v", answer.Code, answer.Header())
	}
}

// TestDecodeMembers: members have exactly the names of the fields, and are there once, at every depth.
func TestDecodeMembers(t *testing.T) {
	t.Parallel()
	type embedded struct {
		Owner string `json:"owner"`
		Plain int
	}
	type body struct {
		embedded
		Amount int               `json:"amount"`
		In     []struct{ N int } `json:"in"`
		Map    map[string]*body  `json:"map"`
		Any    any               `json:"any"`
		At     time.Time         `json:"at"`
	}
	deep := func(n int) string { return `{"any":` + strings.Repeat("[", n) + strings.Repeat("]", n) + `}` }
	for text, detail := range map[string]string{
		`{"amount":1,"owner":"x","Plain":1,"in":[{"N":1},{"N":2}],"map":{"a":{"amount":1},"A":null},"any":{"a":[{}]},"at":"2026-01-01T00:00:00Z"}`: "",
		`{"\u0061mount":1}`: "",
		deep(100):           "",
		deep(101):           "nested",
		deep(9000):          "nested",
		deep(30000):         "depth",
		strings.Repeat(`{"any":`, 200) + "1" + strings.Repeat("}", 200): "nested",
		`{"amount":1,"amount":777,"AMOUNT":888}`:                        `"amount" is there more than once`,
		`{"amount":1,"\u0061mount":777}`:                                `"amount" is there more than once`,
		`{"AMOUNT":888}`:                                                `"AMOUNT" is not known: it is called "amount"`,
		`{"plain":1}`:                                                   `it is called "Plain"`,
		`{"Owner":"x"}`:                                                 `it is called "owner"`,
		`{"in":[{"N":1},{"n":1}]}`:                                      `"n" is not known`,
		`{"map":{"a":{"Amount":1}}}`:                                    `"Amount" is not known`,
		`{"map":{"a":null,"a":null}}`:                                   "more than once",
		`{"any":{"a":{"x":1,"y":2,"x":3}}}`:                             "more than once",
		`{"any":[{"":1,"":2}]}`:                                         "more than once",
		`{"amount":1}{"amount":2}`:                                      "more than one",
		`{"amount":1}]`:                                                 "more than one",
		"{\"owner\":\"\xff\"}":                                          "UTF-8",
		`{"amount":1,}`:                                                 "cannot be decoded",
		`{"amount":1e3}`:                                                "amount: number 1e3: want a whole number of at most 9223372036854775807",
		`{"owner":1}`:                                                   "owner: number: want a string",
		`{"map":{"a":{"owner":1}}}`:                                     "map.owner: number: want a string",
		`{"in":[{"N":true}]}`:                                           "in.N: bool: want a whole number",
		`{"in":{}}`:                                                     "in: object: want an array",
		`{"map":1}`:                                                     "map: number: want an object",
		`{"nothing":1}`:                                                 `"nothing" is not known`,
	} {
		var into body
		err := httpapi.Decode(httptest.NewRequest("POST", "/", strings.NewReader(text)), &into)
		if ok := err == nil; ok != (detail == "") || !ok && (!refused(err, 400) || !strings.Contains(err.Error(), detail) || strings.Contains(err.Error(), "json: ") || strings.Contains(err.Error(), "embedded")) {
			t.Errorf("%.80s: %v, want %q", text, err, detail)
		}
	}
	for _, into := range []any{nil, body{}, (*body)(nil)} {
		if err := httpapi.Decode(httptest.NewRequest("POST", "/", strings.NewReader(`{}`)), into); err == nil || refused(err, 400) {
			t.Errorf("into %T: %v, want an error of the server", into, err)
		}
	}
}

type (
	endless map[string]endless
	nest    []nest
)

// TestDecodeWants: the error for a value of the wrong kind says what the type accepts, also for a type that is made of
// itself.
func TestDecodeWants(t *testing.T) {
	t.Parallel()
	type body struct {
		ID    uuid.UUID       `json:"id"`
		Bytes []byte          `json:"bytes"`
		Big   json.Number     `json:"big"`
		Tree  endless         `json:"tree"`
		Nest  nest            `json:"nest"`
		Of    map[string]nest `json:"of"`
	}
	for text, detail := range map[string]string{
		`{"id":5}`: "id: number: want a string", `{"bytes":5}`: "bytes: number: want a string", `{"big":true}`: "big: bool: want a number",
		`{"tree":{"a":1}}`: "want an object", `{"nest":[[1]]}`: "want an array", `{"of":{"a":[[true]]}}`: "want an array",
	} {
		err := httpapi.Decode(httptest.NewRequest("POST", "/", strings.NewReader(text)), new(body))
		if !refused(err, 400) || !strings.Contains(err.Error(), detail) {
			t.Errorf("%s: %v, want %q", text, err, detail)
		}
	}
	for _, into := range []any{new(endless), new(map[string]nest)} {
		if err := httpapi.Decode(httptest.NewRequest("POST", "/", strings.NewReader(`{"a":1}`)), into); !refused(err, 400) {
			t.Errorf("%T: %v, want 400", into, err)
		}
	}
}

// FuzzDecode: the walk over members never panics, and accepts nothing that the decoder refuses.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{`{"a":1}`, `{"a" : [1, {"b":"\"\\"}], "c":null}`, `{"\ud800":-1e5 }`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var into any
		_ = httpapi.Decode(httptest.NewRequest("POST", "/", strings.NewReader(text)), &into)
	})
}

func BenchmarkDecode(b *testing.B) {
	type line struct {
		Item     string `json:"item"`
		Quantity int64  `json:"quantity"`
	}
	var body struct {
		Customer string `json:"customer"`
		Lines    []line `json:"lines"`
	}
	text := `{"customer":"ada","lines":[{"item":"a","quantity":1},{"item":"b","quantity":2},{"item":"c","quantity":3}]}`
	for b.Loop() {
		if err := httpapi.Decode(httptest.NewRequest("POST", "/", strings.NewReader(text)), &body); err != nil {
			b.Fatal(err)
		}
	}
}

// TestUnavailable: an error that says that Postgres cannot be used is answered with 503. Retry-After is sent if a
// repeat is safe. The text of the error stays inside.
func TestUnavailable(t *testing.T) {
	t.Parallel()
	server := func(code string) error {
		return fmt.Errorf("eventstore: append: %w", &pgconn.PgError{Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: code, Message: "secret"})
	}
	refusedPool, err := pgxpool.New(t.Context(), "postgres://postgres@127.0.0.1:1/x")
	if err != nil {
		t.Fatal(err)
	}
	defer refusedPool.Close()
	_, away := refusedPool.Exec(t.Context(), "select 1")
	for err, retry := range map[error]bool{
		away: true, server("25006"): true, server("53300"): true, server("57P03"): true, server("57P01"): true, server("08006"): true,
		server("57014"): true, server("55P03"): true, server("40001"): true, server("58030"): true,
		eventstore.ErrNoTidemark: true, eventstore.ErrUnproven: true, eventstore.ErrNotMigrated: true, &eventstore.SequenceError{Repair: "secret"}: true,
		fmt.Errorf("secret: %w", io.ErrUnexpectedEOF): false, fmt.Errorf("secret: %w", eventstore.ErrNoAnswer): false,
	} {
		for _, method := range []string{"GET", "POST"} {
			config, output := logged()
			answer := ask(handle(config, returning(err)), method, "/", "")
			wantProblem(t, err, answer, 503, "urn:problem:unavailable")
			if got := answer.Header().Get("Retry-After") != ""; got != (retry || method == "GET") {
				t.Errorf("%s, %v: Retry-After %v", method, err, got)
			}
			if strings.Contains(answer.Body.String(), "secret") || !strings.Contains(output.String(), "level=WARN") {
				t.Errorf("%v: %s, log %s", err, answer.Body, output)
			}
		}
	}
	for _, code := range []string{"42P01", "42501", "23505", "22P02"} {
		config, _ := logged()
		wantProblem(t, code, ask(handle(config, returning(server(code))), "GET", "/", ""), 500, "about:blank")
	}
	own := &httpapi.Config{Problems: []httpapi.Problem{{Err: errBroken, Status: 409, Name: "own"}}}
	answer := ask(handle(own, returning(fmt.Errorf("%w: %w", errBroken, server("23505")))), "POST", "/", "")
	if !strings.Contains(answer.Body.String(), `"detail":"broken"`) {
		t.Errorf("%s, want no text of Postgres", answer.Body)
	}
}

// TestReadOnly: a database that became read-only is answered with 503 and Retry-After, and works again later.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	store, err := eventstore.New(pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	mux := newTallies(store)
	set := func(value string) {
		if _, err := pool.Exec(t.Context(), "alter database "+pool.Config().ConnConfig.Database+" set default_transaction_read_only = "+value); err != nil {
			t.Fatal(err)
		}
		pool.Reset()
	}
	set("on")
	answer := ask(mux, "POST", "/tallies/a", `{"n":1}`)
	wantProblem(t, "read-only", answer, 503, "urn:problem:unavailable")
	if answer.Header().Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	if _, err := pool.Exec(t.Context(), "begin read write; alter database "+pool.Config().ConnConfig.Database+" set default_transaction_read_only = off; commit"); err != nil {
		t.Fatal(err)
	}
	pool.Reset()
	if answer := ask(mux, "POST", "/tallies/a", `{"n":1}`); answer.Code != 200 {
		t.Errorf("later: %d %s", answer.Code, answer.Body)
	}
}

// TestWaitError: the client is told which read model and position it waits for, but not why the read model is late.
func TestWaitError(t *testing.T) {
	t.Parallel()
	late := &projection.WaitError{Projection: "balances", Checkpoint: 3, Position: 7, Reason: errors.New("secret"), Err: context.DeadlineExceeded}
	for _, err := range []error{late, fmt.Errorf("query: position 7: %w: %w", query.ErrBehind, late)} {
		answer := ask(handle(nil, returning(err)), "GET", "/", "")
		wantProblem(t, err, answer, 503, "urn:problem:read-model-behind")
		if body := answer.Body.String(); !strings.Contains(body, `"position":7,"read_model":"balances"`) || strings.Contains(body, "secret") || answer.Header().Get("Retry-After") != "1" {
			t.Errorf("%s %v", body, answer.Header())
		}
	}
}

// TestClientHasGone: an error that comes after the client has gone is not logged as a warning or an error.
func TestClientHasGone(t *testing.T) {
	t.Parallel()
	for _, err := range []error{errors.New("write: broken pipe"), context.Canceled, fmt.Errorf("%w: %w", query.ErrBehind, context.Canceled),
		fmt.Errorf("%w: %w", eventstore.ErrUnknownOutcome, context.Canceled), &pgconn.PgError{Code: "57014"}} {
		config, output := logged()
		ctx, cancel := context.WithCancel(t.Context())
		mux := handle(config, func(http.ResponseWriter, *http.Request) error { cancel(); return err })
		mux.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "GET", "/", nil))
		if strings.Contains(output.String(), "level=ERROR") || strings.Contains(output.String(), "level=WARN") {
			t.Errorf("%v: the log says %s", err, output)
		}
	}
}

// TestBadID: an id that no stream can have is refused. The answer holds nothing that the client has not sent.
func TestBadID(t *testing.T) {
	t.Parallel()
	mux := newTallies(eventstoretest.NewMemory())
	for _, id := range []string{"a%00b", "a%ffb", "a%0Ab", strings.Repeat("x", 300)} {
		for _, method := range []string{"GET", "POST"} {
			answer := ask(mux, method, "/tallies/"+id, `{"n":1}`)
			wantProblem(t, id, answer, 400, "urn:problem:invalid-request")
			for _, internal := range []string{"eventstore:", "aggregate:", "tally", "http/"} {
				if strings.Contains(answer.Body.String(), internal) {
					t.Errorf("%s: %s holds %s", id, answer.Body, internal)
				}
			}
		}
	}
}
