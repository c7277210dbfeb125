package httpapi_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/tidemark-es/tidemark/aggregate"
	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore/eventstoretest"
	"github.com/tidemark-es/tidemark/httpapi"
)

// A tally counts.
type tally struct {
	Total int `json:"total"`
}

// counted is its only event.
type counted struct{ N int }

func (t *tally) Apply(e counted) { t.Total += e.N }

var definition = aggregate.Define[tally]("tally", codec.New(
	codec.Of("counted", func(e counted) counted { return e }),
))

// newTallies returns a mux with a command and a query.
func newTallies(store aggregate.Store) *httpapi.Mux {
	repo := made(aggregate.NewRepository(store, definition, nil))
	mux := made(httpapi.NewMux(nil))
	mux.Handle("POST /tallies/{id}", func(w http.ResponseWriter, r *http.Request) error {
		var body struct {
			N int `json:"n"`
		}
		if err := httpapi.Decode(r, &body); err != nil {
			return err
		}
		seen, err := httpapi.IfMatch(r)
		if err != nil {
			return err
		}
		receipt, err := repo.UpdateAt(r.Context(), r.PathValue("id"), seen, func(*tally) ([]counted, error) {
			return []counted{{body.N}}, nil
		})
		if err != nil {
			return err
		}
		return httpapi.WriteReceipt(w, http.StatusOK, r.PathValue("id"), receipt)
	})
	mux.Handle("GET /tallies/{id}", func(w http.ResponseWriter, r *http.Request) error {
		loaded, err := repo.Load(r.Context(), r.PathValue("id"))
		if err != nil {
			return err
		}
		w.Header().Set("ETag", httpapi.ETag(loaded.Version))
		return httpapi.WriteJSON(w, http.StatusOK, loaded.State)
	})
	return mux
}

func Example() {
	mux := newTallies(eventstoretest.NewMemory())
	send := func(method, body, seen string) {
		request := httptest.NewRequest(method, "/tallies/a", strings.NewReader(body))
		if seen != "" {
			request.Header.Set("If-Match", seen)
		}
		answer := httptest.NewRecorder()
		mux.ServeHTTP(answer, request)
		fmt.Print(answer.Code, " ", answer.Body)
	}
	send("POST", `{"n": 3}`, "")
	send("POST", `{"n": 4}`, `"1"`)
	send("GET", "", "")
	send("POST", `{"n": 5}`, `"1"`)
	// Output:
	// 200 {"id":"a","version":1,"position":1}
	// 200 {"id":"a","version":2,"position":2}
	// 200 {"total":7}
	// 412 {"type":"urn:problem:version-conflict","title":"Precondition Failed","status":412,"detail":"it is at version 2, and If-Match asks for 1"}
}
