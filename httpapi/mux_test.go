package httpapi_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/eventstore/eventstoretest"
	"github.com/tidemark-es/tidemark/httpapi"
	"github.com/tidemark-es/tidemark/internal/pgtest"
	"github.com/tidemark-es/tidemark/query"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// TestRefused: a malformed request does not reach a handler.
func TestRefused(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("x", 64<<10+1)
	for _, test := range []struct {
		method, target string
		body           io.Reader
		maxBody        int64
		header, value  string
		status         int
	}{
		{"POST", "/", strings.NewReader(text[1:]), 0, "", "", 200},
		{"POST", "/", strings.NewReader(text), 0, "", "", 413},
		{"POST", "/", strings.NewReader(text[:10]), 10, "", "", 200},
		{"POST", "/", strings.NewReader(text[:11]), 10, "", "", 413},
		{"POST", "/", iotest.ErrReader(io.ErrUnexpectedEOF), 0, "", "", 400},
		{"GET", "/?a=%zz", nil, 0, "", "", 400},
		{"GET", "/?a;b", nil, 0, "", "", 400},
		{"GET", "/?a=%00", nil, 0, "", "", 400},
		{"GET", "/?b=%C3%A4&a=1&a=%ff", nil, 0, "", "", 400},
		{"POST", "/a%00b", nil, 0, "", "", 400},
		{"POST", "/a%ffb", nil, 0, "", "", 400},
		{"GET", "/%C3%A4%0A?a=%C3%A4%0A", nil, 0, "", "", 200},
		{"GET", "/", nil, 0, httpapi.PositionHeader, "yesterday", 400},
		{"GET", "/", nil, 0, httpapi.PositionHeader, "-1", 400},
		{"POST", "/", nil, 0, "Idempotency-Key", text[:200], 200},
		{"POST", "/", nil, 0, "Idempotency-Key", text[:201], 400},
		{"POST", "/", nil, 0, "Idempotency-Key", "a\tb", 400},
		{"POST", "/", nil, 0, "Idempotency-Key", "\xff", 400},
		{"POST", "/", nil, 0, "If-Match", "3", 400},
		{"POST", "/", nil, 0, "If-Match", "", 400},
		{"POST", "/", nil, 0, "Idempotency-Key", "", 400},
		{"GET", "/", nil, 0, httpapi.PositionHeader, "", 400},
		{"POST", "/", nil, 0, "Idempotency-Key", "a\x7fb", 400},
		{"POST", "/", nil, 0, "X-Request-Id", "a\tb", 200},
		{"POST", "/", nil, 0, "traceparent", "a\x00b", 200},
		{"GET", "/", nil, 0, "If-Match", "3", 200},
		{"GET", "/?%00=x", nil, 0, "", "", 400},
		{"GET", "/?%ff=x", nil, 0, "", "", 400},
		{"POST", "/", nil, 0, "Content-Type", ";", 200}, // for the handler to refuse
		{"GET", "/", nil, 0, "Idempotency-Key", text[:201], 200},
		{"HEAD", "/", nil, 0, "Idempotency-Key", text[:201], 200},
	} {
		what, called := fmt.Sprintf("%s %s %s", test.method, test.target, test.header), false
		mux := handle(&httpapi.Config{MaxBody: test.maxBody}, func(_ http.ResponseWriter, r *http.Request) error {
			called = true
			if body, err := io.ReadAll(r.Body); err != nil || !strings.HasPrefix(text, string(body)) || (len(body) == 0) != (test.body == nil) {
				t.Errorf("%s: the handler got %d bytes, %v", what, len(body), err)
			}
			return nil
		})
		request, answer := httptest.NewRequest(test.method, test.target, test.body), httptest.NewRecorder()
		if test.header != "" {
			request.Header.Set(test.header, test.value)
		}
		mux.ServeHTTP(answer, request)
		if answer.Code != test.status || called != (test.status == 200) {
			t.Errorf("%s: %d, handler called: %v; want %d", what, answer.Code, called, test.status)
		}
		if test.status != 200 {
			wantProblem(t, what, answer, test.status, map[int]string{400: "urn:problem:invalid-request", 413: "urn:problem:too-large"}[test.status])
		}
	}
}

// TestMetadata looks at the metadata that is stored with the event of a request.
func TestMetadata(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("x", 201)
	outer := eventstore.Metadata{Actor: "ada", CausationID: "cause", Headers: map[string]string{"a": "b"}}
	ctx := eventstore.WithMetadata(t.Context(), outer)
	random := map[string]bool{}
	for header, stored := range map[string]bool{"id": true, "a b": true, text[:200]: true, "": false, " ": false, text: false, "\xff": false,
		"a\tb": false, "a\x00b": false, "a\nb": false, "a\u0085b": false, "\x7f": false} {
		store := eventstoretest.NewMemory()
		request := httptest.NewRequestWithContext(ctx, "POST", "/tallies/a", strings.NewReader(`{}`))
		request.Header.Set("X-Request-Id", header)
		request.Header.Set("traceparent", header)
		answer := httptest.NewRecorder()
		newTallies(store).ServeHTTP(answer, request)
		if answer.Code != 200 || (answer.Header().Get("X-Request-Id") == header) != stored || (answer.Header().Get("X-Request-Id-Replaced") == "") != stored {
			t.Errorf("X-Request-Id %q: %d %v", header, answer.Code, answer.Header())
		}
		page, err := store.Next(ctx, eventstore.After(0), eventstore.Filter{}, 1)
		if err != nil {
			t.Fatal(err)
		}
		got, want := page.Events[0].Metadata, outer
		if want.CorrelationID, want.TraceParent = header, header; !stored {
			want.CorrelationID, want.TraceParent = got.CorrelationID, ""
			random[uuid.MustParse(got.CorrelationID).String()] = true
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("X-Request-Id and traceparent %q (-want +got):\n%s", header, diff)
		}
	}
	for header, want := range map[string]string{"": "outer", "inner": "inner"} {
		got := handle(nil, func(_ http.ResponseWriter, r *http.Request) error {
			return httpapi.BadRequest("%s", eventstore.MetadataFrom(r.Context()).CorrelationID)
		})
		request, answer := httptest.NewRequestWithContext(eventstore.WithMetadata(t.Context(), eventstore.Metadata{CorrelationID: "outer"}), "GET", "/", nil), httptest.NewRecorder()
		request.Header.Set("X-Request-Id", header)
		got.ServeHTTP(answer, request)
		if !strings.Contains(answer.Body.String(), `"detail":"`+want) || answer.Result().Header.Get("X-Request-Id") != want {
			t.Errorf("X-Request-Id %q: %v %s, want %s", header, answer.Header(), answer.Body, want)
		}
	}
	if len(random) != 9 {
		t.Errorf("correlation ids %v, want nine", random)
	}
}

// TestVersions: the ETag of an answer is accepted as If-Match while the version is the present one.
func TestVersions(t *testing.T) {
	t.Parallel()
	mux := newTallies(eventstoretest.NewMemory())
	first := ask(mux, "POST", "/tallies/a", `{}`).Header().Get("ETag")
	second, shown := ask(mux, "POST", "/tallies/a", `{}`, "If-Match", first), ask(mux, "GET", "/tallies/a", "")
	if second.Code != 200 || second.Header().Get("ETag") != shown.Header().Get("ETag") {
		t.Errorf("the version that is there: %d %v, then %v", second.Code, second.Header(), shown.Header())
	}
	for _, tag := range []string{first, `"x"`} {
		wantProblem(t, tag, ask(mux, "POST", "/tallies/a", `{}`, "If-Match", tag), 412, "urn:problem:version-conflict")
	}
	wantProblem(t, "two tags", ask(mux, "POST", "/tallies/a", `{}`, "If-Match", first, "If-Match", `"2"`), 400, "urn:problem:invalid-request")
}

// TestIdempotencyKey sends a request many times at once: it is done once, and every answer is the same.
func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	store := eventstoretest.NewMemory()
	mux := newTallies(store)
	mux.Handle("PUT /tallies/{id}", func(_ http.ResponseWriter, r *http.Request) error {
		_, _, err := store.Receipts(r.Context())
		return err
	})
	var answers [8]*httptest.ResponseRecorder
	var clients sync.WaitGroup
	for i := range answers {
		clients.Go(func() {
			answers[i] = ask(mux, "POST", "/tallies/a", `{"n":1}`, "Idempotency-Key", "key", "If-Match", "", "X-Request-Id", "r")
		})
	}
	clients.Wait()
	for _, a := range answers {
		if a.Code != 200 || a.Body.String() != answers[0].Body.String() || !cmp.Equal(a.Header(), answers[0].Header()) {
			t.Errorf("%d %v %s, another: %v %s", a.Code, a.Header(), a.Body, answers[0].Header(), answers[0].Body)
		}
	}
	for _, other := range [][4]string{{"POST", "/tallies/a", `{"n":2}`}, {"POST", "/tallies/b", `{"n":1}`}, {"PUT", "/tallies/a", `{"n":1}`},
		{"POST", "/tallies/a?x=y", `{"n":1}`}, {"POST", "/tallies/%61", `{"n":1}`}, {"POST", "/tallies/a", `{"n":1}`, `"1"`}} {
		wantProblem(t, other, ask(mux, other[0], other[1], other[2], "Idempotency-Key", "key", "If-Match", other[3]), 422, "urn:problem:idempotency-key-reused")
	}
	ask(mux, "POST", "/tallies/a", `{"n":1}`, "Idempotency-Key", "other key")
	ask(mux, "POST", "/tallies/a", `{"n":1}`)
	ask(mux, "POST", "/tallies/a", `{"n":1}`)
	if got := ask(mux, "GET", "/tallies/a", "", "Idempotency-Key", "key").Body.String(); got != "{\"total\":4}\n" {
		t.Errorf("after four requests: %s", got)
	}
}

func TestNewID(t *testing.T) {
	t.Parallel()
	mux := handle(nil, func(w http.ResponseWriter, r *http.Request) error {
		return httpapi.WriteJSON(w, 200, uuid.MustParse(httpapi.NewID(r)))
	})
	id := func(method, key string) string {
		return ask(mux, method, "/", "", "Idempotency-Key", key).Body.String()
	}
	seen := map[string]bool{id("POST", "key"): true, id("POST", "other key"): true, id("POST", ""): true, id("POST", ""): true, id("GET", "key"): true}
	if len(seen) != 5 || !seen[id("POST", "key")] {
		t.Errorf("%v, want five ids, and that of a repeat among them", seen)
	}
}

// waiter stands for a runner whose projections stay at position 10.
type waiter struct{}

func (waiter) Wait(ctx context.Context, position eventstore.Position, _ ...string) error {
	if position <= 10 {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

var answer = query.WaitFor(func(context.Context, string) (string, error) { return "answer", nil }, waiter{})

// newWaiting returns a mux with a query that waits for a position, and with a command that works until done is closed.
func newWaiting(config *httpapi.Config, done <-chan struct{}) *httpapi.Mux {
	mux := made(httpapi.NewMux(config))
	mux.Handle("GET /", func(_ http.ResponseWriter, r *http.Request) error {
		_, err := answer(r.Context(), "")
		return err
	})
	mux.Handle("POST /", func(_ http.ResponseWriter, r *http.Request) error {
		select {
		case <-done:
			return nil
		case <-r.Context().Done():
			return fmt.Errorf("work: %w", r.Context().Err())
		}
	})
	return mux
}

// TestTimeout: a query that waits and a command that works both end after the timeout.
func TestTimeout(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		config           *httpapi.Config
		method, position string
		took             time.Duration
		problem          string
	}{
		{nil, "GET", "", 0, ""},
		{nil, "GET", "10", 0, ""},
		{nil, "GET", "11", 10 * time.Second, "read-model-behind"},
		{nil, "POST", "", 10 * time.Second, "timeout"},
		{&httpapi.Config{Timeout: time.Minute}, "GET", "11", time.Minute, "read-model-behind"},
		{&httpapi.Config{Timeout: time.Minute}, "POST", "", time.Minute, "timeout"},
	} {
		synctest.Test(t, func(t *testing.T) {
			before := time.Now()
			answer := ask(newWaiting(test.config, nil), test.method, "/", "", httpapi.PositionHeader, test.position)
			if took := time.Since(before); took != test.took {
				t.Errorf("%s at %q took %v, want %v", test.method, test.position, took, test.took)
			}
			if test.problem != "" {
				wantProblem(t, test.method, answer, 503, "urn:problem:"+test.problem)
			} else if answer.Code != 200 {
				t.Errorf("at %q: %d %s", test.position, answer.Code, answer.Body)
			}
		})
	}
}

// TestClosed: a query that arrives after Close finds its context done from the start.
func TestClosed(t *testing.T) {
	t.Parallel()
	mux := handle(nil, func(_ http.ResponseWriter, r *http.Request) error { return r.Context().Err() })
	mux.Close()
	for range 200 {
		wantProblem(t, "late", ask(mux, "GET", "/", ""), 503, "urn:problem:closing")
		if command := ask(mux, "POST", "/", ""); command.Code != 200 {
			t.Errorf("a command: %d", command.Code)
		}
	}
}

// TestClose: queries that wait end at once, and so do later ones. Commands are completed.
func TestClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		done, before := make(chan struct{}), time.Now()
		mux := newWaiting(nil, done)
		send := func(method string) <-chan *httptest.ResponseRecorder {
			answered := make(chan *httptest.ResponseRecorder, 1)
			go func() { answered <- ask(mux, method, "/", "", httpapi.PositionHeader, "11") }()
			synctest.Wait() // until it is answered or waits
			return answered
		}
		early, head, command := send("GET"), send("HEAD"), send("POST")
		mux.Close()
		late, lateCommand := send("GET"), send("POST")
		for _, answered := range []<-chan *httptest.ResponseRecorder{early, head, late} {
			wantProblem(t, "a query", <-answered, 503, "urn:problem:read-model-behind")
		}
		close(done)
		for _, answered := range []<-chan *httptest.ResponseRecorder{command, lateCommand} {
			if got := <-answered; got.Code != 200 {
				t.Errorf("a command got %d %s", got.Code, got.Body)
			}
		}
		if took := time.Since(before); took != 0 {
			t.Errorf("it took %v", took)
		}
	})
}

// made returns a value that a constructor has returned without an error.
func made[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}
