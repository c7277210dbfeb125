package httpapi_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/httpapi"
	"github.com/tidemark-es/tidemark/projection"
)

// refused reports whether err is an [httpapi.Error] with a status.
func refused(err error, status int) bool {
	found := new(httpapi.Error)
	return errors.As(err, &found) && found.Status == status
}

func TestDecode(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		kind, body string
		status     int
		detail     string
	}{
		{"", `{"n":1}`, 0, ""},
		{"application/json; charset=utf-8", "{\"in\":{\"n\":2},\n\"n\":1}\n", 0, ""},
		{"", "\r\n\t {\"n\":1}", 0, ""},
		{"application/x-www-form-urlencoded", `n=1`, 415, "application/json"},
		{";", `{"n":1}`, 415, "application/json"},
		{"", ``, 400, "not a JSON object"},
		{"", `null`, 400, "not a JSON object"},
		{"", `[{"n":1}]`, 400, "not a JSON object"},
		{"", `{"n":`, 400, "unexpected EOF"},
		{"", `{"n":1,"m":1}`, 400, `"m"`},
		{"", `{"n":1} {}`, 400, "more than one"},
		{"", `{"n":1}x`, 400, "more than one"},
		{"", `{"n":"1"}`, 400, "n: string"},
		{"", `{"in":{"n":1.5}}`, 400, "in.n: number 1.5"},
	} {
		request := httptest.NewRequest("POST", "/", strings.NewReader(test.body))
		request.Header.Set("Content-Type", test.kind)
		var into struct {
			N  int `json:"n"`
			In struct {
				N int `json:"n"`
			} `json:"in"`
		}
		err := httpapi.Decode(request, &into)
		if ok := err == nil && into.N == 1; ok != (test.status == 0) || !ok && (!refused(err, test.status) || !strings.Contains(err.Error(), test.detail)) {
			t.Errorf("%s %s: %v, %+v; want %d %s", test.kind, test.body, err, into, test.status, test.detail)
		}
	}
}

func TestIfMatch(t *testing.T) {
	t.Parallel()
	const malformed, unknown eventstore.Version = -100, -101
	for want, requests := range map[eventstore.Version][][]string{
		eventstore.Any:    {nil},
		eventstore.Exists: {{`*`}},
		3:                 {{`"3"`}, {` "3" `}, {httpapi.ETag(3)}},
		unknown:           {{`W/"3"`}, {`"03"`}, {`"+3"`}, {`"0"`}, {`"-1"`}, {`"-5"`}, {`""`}, {`"x"`}, {`"9223372036854775808"`}},
		malformed:         {{``}, {` `}, {``, ``}, {``, `"3"`}, {`"3",`}, {`"1", "3"`}, {`"1"`, `"3"`}, {`*`, `"3"`}, {`3`}, {`"3`}, {`'3'`}, {`w/"3"`}, {`"a b"`}},
	} {
		for _, headers := range requests {
			request := httptest.NewRequest("POST", "/", nil)
			request.Header["If-Match"] = headers
			got, err := httpapi.IfMatch(request)
			if refused(err, 400) != (want == malformed) || refused(err, 412) != (want == unknown) || err == nil && got != want {
				t.Errorf("If-Match %q: %d, %v, want %d", headers, got, err, want)
			}
		}
	}
}

func TestLimit(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{"": 50, "1": 1, "100": 100, "0": 0, "101": 0, "-1": 0, "x": 0, "5.0": 0} {
		got, err := httpapi.Limit(httptest.NewRequest("GET", "/?limit="+text, nil), 50, 100)
		if got != want || refused(err, 400) != (want == 0) {
			t.Errorf("limit=%s: %d, %v, want %d", text, got, err, want)
		}
	}
}

func TestWrite(t *testing.T) {
	t.Parallel()
	write := func(status int, body any) httpapi.Handler {
		return func(w http.ResponseWriter, _ *http.Request) error { return httpapi.WriteJSON(w, status, body) }
	}
	receipt := func(w http.ResponseWriter, _ *http.Request) error {
		return httpapi.WriteReceipt(w, 201, "a", eventstore.Receipt{Version: 3, Position: 42})
	}
	page := func(next func(string) string, rows ...string) httpapi.Handler { // of at most two
		return func(w http.ResponseWriter, _ *http.Request) error { return httpapi.WritePage(w, "rows", rows, 2, next) }
	}
	health := func(s projection.Status, err error) httpapi.Handler {
		return httpapi.Health(func(context.Context) (projection.Status, error) { return s, err })
	}
	next := func(row string) string { return "after " + row }
	json := http.Header{"Content-Type": {"application/json"}}
	for _, test := range []struct {
		handler httpapi.Handler
		status  int
		header  http.Header
		body    string
	}{
		{write(202, []int{1}), 202, json, `[1]`},
		{write(202, make(chan int)), 500, http.Header{"Content-Type": {"application/problem+json"}}, `{"type":"about:blank","title":"Internal Server Error","status":500}`},
		{receipt, 201, http.Header{"Content-Type": {"application/json"}, "Etag": {`"3"`}, "Tidemark-Position": {"42"}}, `{"id":"a","version":3,"position":42}`},
		{page(next), 200, json, `{"rows":[]}`},
		{page(next, "a"), 200, json, `{"rows":["a"]}`},
		{page(next, "a", "b"), 200, json, `{"next":"after b","rows":["a","b"]}`},
		{page(nil, "a", "b"), 200, json, `{"rows":["a","b"]}`},
		{func(w http.ResponseWriter, _ *http.Request) error {
			return httpapi.WritePage(w, "rows", []string{}, 0, next)
		}, 200, json, `{"rows":[]}`},
		{health(projection.Status{}, nil), 200, json, `{"projections":[],"tidemark":0}`},
		{health(projection.Status{}, errors.New("no connection")), 503, json, `{"problem":"no connection"}`},
		{health(projection.Status{Tidemark: 9, Projections: []projection.ProjectionStatus{
			{Name: "a", Version: 1, Phase: "live", State: "running", Checkpoint: 7, Lag: 2, LagTime: 1500 * time.Millisecond, Parked: 1},
		}, Held: &eventstore.Holder{PID: 4711, ApplicationName: "importer", Age: time.Minute}}, nil), 200, json,
			`{"held_by":{"pid":4711,"application_name":"importer","seconds":60},"projections":[{"name":"a","version":1,"phase":"live","state":"running","checkpoint":7,"lag":2,"lag_seconds":1.5,"parked":1}],"tidemark":9}`},
		{health(projection.Status{Projections: []projection.ProjectionStatus{
			{Name: "a", Version: 1, Phase: "live", State: "stopped", Reason: "broken"},
		}}, nil), 503, json,
			`{"projections":[{"name":"a","version":1,"phase":"live","state":"stopped","checkpoint":0,"lag":0,"lag_seconds":0,"parked":0,"problem":"stopped: broken"}],"tidemark":0}`},
	} {
		answer := ask(handle(&httpapi.Config{Logger: slog.New(slog.DiscardHandler)}, test.handler), "GET", "/", "")
		header := answer.Result().Header
		header.Del("X-Request-Id")
		if diff := cmp.Diff(test.header, header); diff != "" || answer.Code != test.status || answer.Body.String() != test.body+"\n" {
			t.Errorf("%d %s, want %d %s; headers (-want +got):\n%s", answer.Code, answer.Body, test.status, test.body, diff)
		}
	}
}
