package httpapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/httpapi"
	"github.com/tidemark-es/tidemark/query"
)

// ask sends a request. headers are pairs of name and value; a header with an empty value is left out.
func ask(h http.Handler, method, target, body string, headers ...string) *httptest.ResponseRecorder {
	request := httptest.NewRequest(method, target, strings.NewReader(body))
	for i := 0; i < len(headers); i += 2 {
		if headers[i+1] != "" {
			request.Header.Add(headers[i], headers[i+1])
		}
	}
	answer := httptest.NewRecorder()
	h.ServeHTTP(answer, request)
	return answer
}

// handle returns a mux with one handler.
func handle(config *httpapi.Config, handler httpapi.Handler) *httpapi.Mux {
	mux := made(httpapi.NewMux(config))
	mux.Handle("/", handler)
	return mux
}

// returning is a handler that returns err.
func returning(err error) httpapi.Handler {
	return func(http.ResponseWriter, *http.Request) error { return err }
}

// wantProblem checks that an answer is a problem document.
func wantProblem(t *testing.T, what any, a *httptest.ResponseRecorder, status int, kind string) {
	t.Helper()
	want := fmt.Sprintf(`{"type":%q,"title":%q,"status":%d`, kind, http.StatusText(status), status)
	if a.Code != status || a.Result().Header.Get("Content-Type") != "application/problem+json" || !strings.HasPrefix(a.Body.String(), want) || !json.Valid(a.Body.Bytes()) {
		t.Errorf("%v: %d %v %s, want the problem %s", what, a.Code, a.Header(), a.Body, want)
	}
}

// TestProblems: the problem of each error without configuration. Only the text of an unknown error is logged instead of
// sent.
func TestProblems(t *testing.T) {
	t.Parallel()
	conflict := fmt.Errorf("around: %w", &eventstore.ConflictError{Stream: eventstore.StreamID{Category: "a", Key: "b"}, Expected: 3, Actual: 4})
	const detail = `,"detail":"something that the request changes was changed at the same time: send the request again"`
	for _, test := range []struct {
		method, header, value string
		err                   error
		status                int
		kind, detail, retry   string
	}{
		{"POST", "", "", httpapi.BadRequest("no %s", "way"), 400, "urn:problem:invalid-request", `,"detail":"no way"`, ""},
		{"POST", "", "", fmt.Errorf("around: %w", &httpapi.Error{Status: 418, Name: "teapot", Detail: "short"}), 418, "urn:problem:teapot", `,"detail":"short"`, ""},
		{"POST", "", "", &eventstore.KeyReusedError{Key: "k"}, 422, "urn:problem:idempotency-key-reused", `,"detail":"the Idempotency-Key was used before for another request"`, ""},
		{"POST", "", "", &eventstore.InvalidError{Reason: "why"}, 400, "urn:problem:invalid-request", `,"detail":"why"`, ""},
		{"POST", "", "", conflict, 409, "urn:problem:version-conflict", detail, ""},
		{"POST", "If-Match", "*", conflict, 409, "urn:problem:version-conflict", detail, ""},
		{"POST", "If-Match", `"2"`, conflict, 409, "urn:problem:version-conflict", detail, ""}, // of another stream
		{"POST", "If-Match", "*", &eventstore.ConflictError{Expected: eventstore.Exists}, 412, "urn:problem:version-conflict", `,"detail":"it does not exist, and If-Match asks for something that exists"`, ""},
		{"POST", "If-Match", `"3"`, conflict, 412, "urn:problem:version-conflict", `,"detail":"it is at version 4, and If-Match asks for 3"`, ""},
		{"POST", "", "", fmt.Errorf("%w: %w", eventstore.ErrUnknownOutcome, context.Canceled), 503, "urn:problem:unknown-outcome", `,"detail":"it is not known whether it was done: repeat the request under the same Idempotency-Key to find out"`, ""},
		{"POST", "Idempotency-Key", "k", eventstore.ErrUnknownOutcome, 503, "urn:problem:unknown-outcome", `,"detail":"it is not known whether it was done: repeat the request under the same Idempotency-Key to find out"`, "1"},
		{"POST", "", "", eventstore.ErrClosed, 503, "urn:problem:closing", `,"detail":"the service is closing, or the request was given up"`, ""},
		{"POST", "", "", context.Canceled, 503, "urn:problem:closing", `,"detail":"the service is closing, or the request was given up"`, ""},
		{"POST", "", "", context.DeadlineExceeded, 503, "urn:problem:timeout", `,"detail":"it was not done in time"`, ""},
		{"POST", "Idempotency-Key", "k", context.DeadlineExceeded, 503, "urn:problem:timeout", `,"detail":"it was not done in time"`, "1"},
		{"POST", "Idempotency-Key", "k", conflict, 409, "urn:problem:version-conflict", detail, ""},
		{"GET", "", "", query.ErrBehind, 503, "urn:problem:read-model-behind", `,"detail":"the read model has not reached the position yet: ask again"`, "1"},
		{"HEAD", "", "", query.ErrBehind, 503, "urn:problem:read-model-behind", `,"detail":"the read model has not reached the position yet: ask again"`, "1"},
		{"GET", "", "", fmt.Errorf("%w: secret: %w", query.ErrBehind, &httpapi.Error{Status: 404, Name: "why"}), 503, "urn:problem:read-model-behind", `,"detail":"the read model has not reached the position yet: ask again"`, "1"},
		{"GET", "", "", errors.New("secret"), 500, "about:blank", ``, ""},
	} {
		var output bytes.Buffer
		mux := handle(&httpapi.Config{Logger: slog.New(slog.NewTextHandler(&output, nil))}, returning(test.err))
		answer := ask(mux, test.method, "/", "", test.header, test.value)
		wantProblem(t, test.err, answer, test.status, test.kind)
		if got := answer.Body.String(); !strings.HasSuffix(got, fmt.Sprintf("\"status\":%d%s}\n", test.status, test.detail)) {
			t.Errorf("%v: %s, want at the end %s", test.err, got, test.detail)
		}
		if got := answer.Result().Header.Get("Retry-After"); got != test.retry {
			t.Errorf("%s %s, %v: Retry-After %q, want %q", test.method, test.header, test.err, got, test.retry)
		}
		if logged := strings.Contains(output.String(), test.err.Error()); logged != (test.status == 500 || strings.HasSuffix(test.kind, "timeout") || strings.HasSuffix(test.kind, "unknown-outcome")) {
			t.Errorf("%v: the log says %q", test.err, &output)
		}
	}
}

// TestConfiguredProblems: the first rule that matches counts, before the meaning of the framework's errors. Only an
// error that matches a rule gets members. Members never replace those of the document itself.
func TestConfiguredProblems(t *testing.T) {
	t.Parallel()
	errGone, errShort, errOdd := errors.New("gone"), errors.New("too short"), errors.New("odd")
	config := &httpapi.Config{
		TypePrefix: "urn:shop:",
		Problems:   []httpapi.Problem{{errGone, 410, "gone"}, {errShort, 422, "short"}, {errOdd, 409, "odd"}, {errGone, 404, "late"}},
		Members: func(err error) map[string]any {
			members := map[string]any{"type": "no", "title": "no", "status": 0, "detail": "no"}
			switch {
			case errors.Is(err, errOdd):
				members["left"] = make(chan int) // cannot be written
			case !errors.Is(err, errGone):
				members["left"], members["about"] = 3, err.Error()
			}
			return members
		},
		Logger: slog.New(slog.DiscardHandler),
	}
	for err, want := range map[error]string{
		errGone:                           `{"type":"urn:shop:gone","title":"Gone","status":410,"detail":"gone"}`,
		errors.Join(errShort, errGone):    `{"type":"urn:shop:gone","title":"Gone","status":410,"detail":"too short\ngone"}`,
		fmt.Errorf("order: %w", errShort): `{"type":"urn:shop:short","title":"Unprocessable Entity","status":422,"detail":"order: too short","about":"order: too short","left":3}`,
		errOdd:                            `{"type":"urn:shop:odd","title":"Conflict","status":409,"detail":"odd"}`,
		eventstore.ErrConflict:            `{"type":"urn:shop:version-conflict","title":"Conflict","status":409,"detail":"something that the request changes was changed at the same time: send the request again"}`,
		eventstore.ErrInvalid:             `{"type":"urn:shop:invalid-request","title":"Bad Request","status":400,"detail":"something in the request cannot be stored"}`,
	} {
		if got := ask(handle(config, returning(err)), "POST", "/", "").Body.String(); got != want+"\n" {
			t.Errorf("%v: %s, want %s", err, got, want)
		}
	}
	for _, err := range []error{eventstore.ErrKeyReused, eventstore.ErrInvalid, eventstore.ErrConflict, context.DeadlineExceeded} {
		own := &httpapi.Config{Problems: []httpapi.Problem{{err, 418, "mine"}}}
		wantProblem(t, err, ask(handle(own, returning(err)), "POST", "/", "", "If-Match", `"1"`), 418, "urn:problem:mine")
	}
}

// TestBehindComesFirst: a read model that fails is behind, also if the reason matches one of Problems.
func TestBehindComesFirst(t *testing.T) {
	t.Parallel()
	errGone := errors.New("gone")
	mux := handle(&httpapi.Config{Problems: []httpapi.Problem{{errGone, 410, "gone"}}}, returning(fmt.Errorf("%w: %w", query.ErrBehind, errGone)))
	wantProblem(t, "behind", ask(mux, "GET", "/", ""), 503, "urn:problem:read-model-behind")
}

// TestFailedHeaders: headers that a handler sets before it fails are not in the answer. The request can be found in the
// log.
func TestFailedHeaders(t *testing.T) {
	t.Parallel()
	var output bytes.Buffer
	mux := handle(&httpapi.Config{Logger: slog.New(slog.NewTextHandler(&output, nil))}, func(w http.ResponseWriter, _ *http.Request) error {
		for _, name := range []string{"ETag", "Location", httpapi.PositionHeader} {
			w.Header().Set(name, "x")
		}
		return errors.New("secret")
	})
	got := ask(mux, "POST", "/", "").Result().Header
	id := got.Get("X-Request-Id")
	if got.Get("ETag")+got.Get("Location")+got.Get(httpapi.PositionHeader) != "" || id == "" || !strings.Contains(output.String(), "request_id="+id) {
		t.Errorf("headers %v, log %s", got, &output)
	}
}

func TestNewMuxPanics(t *testing.T) {
	t.Parallel()
	for _, p := range []httpapi.Problem{{nil, 404, "x"}, {errors.New("x"), 0, "x"}, {errors.New("x"), 200, "x"}, {errors.New("x"), 600, "x"}, {errors.New("x"), 404, ""}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%+v: no panic", p)
				}
			}()
			made(httpapi.NewMux(&httpapi.Config{Problems: []httpapi.Problem{p}}))
		}()
	}
}

// TestDefaultLogger is not parallel: it takes the output of slog.Default() for a while.
func TestDefaultLogger(t *testing.T) {
	var output bytes.Buffer
	defer log.SetOutput(log.Writer())
	log.SetOutput(&output)
	if ask(handle(nil, returning(errors.New("secret"))), "GET", "/", ""); !strings.Contains(output.String(), "secret") {
		t.Errorf("the log says %q", &output)
	}
}

// TestNotServed: the answers of the mux itself to requests without a handler.
func TestNotServed(t *testing.T) {
	t.Parallel()
	mux := made(httpapi.NewMux(nil))
	for _, pattern := range []string{"GET /a/{id}", "POST /a/{id}", "/dir/"} {
		mux.Handle(pattern, returning(nil))
	}
	wantProblem(t, "no path", ask(mux, "GET", "/nowhere", ""), 404, "urn:problem:no-such-endpoint")
	other := ask(mux, "DELETE", "/a/1", "")
	wantProblem(t, "no method", other, 405, "urn:problem:no-such-endpoint")
	if got := other.Result().Header.Get("Allow"); got != "GET, HEAD, POST" {
		t.Errorf("Allow: %q", got)
	}
	for from, to := range map[string]string{"/a//1?x=y": "/a/1?x=y", "/dir": "/dir/", "//nowhere": "/nowhere"} {
		got := ask(mux, "GET", from, "").Result()
		if got.StatusCode != 307 || got.Header.Get("Location") != to || got.Header.Get("Content-Type") == "application/problem+json" {
			t.Errorf("%s: %d %v, want a redirect to %s", from, got.StatusCode, got.Header, to)
		}
	}
	for _, pattern := range []string{"GET /a/{other}", "GET /{"} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("pattern %q: no panic", pattern)
				}
			}()
			mux.Handle(pattern, returning(nil))
		}()
	}
}
