package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/examples/internal/servicetest"
	"github.com/tidemark-es/tidemark/httpapi"
	"github.com/tidemark-es/tidemark/projection"
	"github.com/tidemark-es/tidemark/tidemarktest"
)

// shop is a running service and a client of it.
type shop struct {
	*servicetest.Client
	*app
}

func start(t *testing.T) *shop {
	t.Helper()
	s, err := open(t.Context(), tidemarktest.EmptyURL(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	servicetest.Background(t, s.runner.Run)
	if err := s.runner.Wait(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	return &shop{servicetest.Serve(t, s.mux), s}
}

// stock puts quantities of items into the stock: cup 5 means five cups.
func (s *shop) stock(items map[string]int) {
	s.Helper()
	for item, quantity := range items {
		s.Must(200, "POST", "/items/"+item+"/receipts", fmt.Sprintf(`{"name":"Nice %s","quantity":%d}`, item, quantity))
	}
}

// placing returns the body of a request that places an order, with a price of 100 cents per unit.
func placing(id, customer, date string, items map[string]int) string {
	lines := []string{}
	for item, quantity := range items {
		lines = append(lines, fmt.Sprintf(`{"item":%q,"quantity":%d,"price":100}`, item, quantity))
	}
	return fmt.Sprintf(`{"id":%q,"customer":%q,"currency":"EUR","date":%q,"lines":[%s]}`, id, customer, date, strings.Join(lines, ","))
}

func (s *shop) place(id, customer, date string, items map[string]int) {
	s.Helper()
	s.Must(201, "POST", "/orders", placing(id, customer, date, items))
}

// now returns the position at the end of the log. A query that is sent with it sees every event.
func (s *shop) now() string {
	s.Helper()
	end, err := s.store.Tidemark(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	return end.String()
}

// get sends a query that sees every event.
func (s *shop) get(path string) servicetest.Answer {
	s.Helper()
	return s.Must(200, "GET", path, "", httpapi.PositionHeader, s.now())
}

func (s *shop) events() (n int) {
	s.Helper()
	if err := s.pool.QueryRow(s.Context(), `select count(*) from tidemark.events`).Scan(&n); err != nil {
		s.Fatal(err)
	}
	return n
}

// audited fails the test when an invariant is broken.
func (s *shop) audited() {
	s.Helper()
	var report strings.Builder
	if err := s.audit(s.Context(), &report); err != nil {
		s.Errorf("%v\n%s", err, &report)
	}
}

// TestWholePath sends commands and then queries all read models.
func TestWholePath(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.stock(map[string]int{"cup": 10, "pot": 2, "jug": 1})
	s.place("o1", "ada", "2026-01-01", map[string]int{"cup": 4})
	s.place("o2", "ada", "2026-01-02", map[string]int{"pot": 1})
	s.place("o3", "ada", "2026-01-03", map[string]int{"jug": 1})
	s.place("o4", "bob", "2026-01-03", map[string]int{"cup": 1})
	s.Must(200, "POST", "/orders/o1/payment", `{"amount":400,"currency":"EUR","date":"2026-01-05"}`)
	s.Must(200, "POST", "/orders/o1/shipment", `{"carrier":"DHL","tracking":"J1","date":"2026-01-06"}`)
	s.Must(200, "POST", "/orders/o1/delivery", `{"date":"2026-01-07"}`, "If-Match", `"3"`)
	s.Must(200, "POST", "/orders/o1/return", `{"reason":"chipped","date":"2026-01-08"}`)
	s.Must(200, "POST", "/orders/o2/payment", `{"amount":100,"currency":"EUR","date":"2026-01-05"}`)
	s.Must(200, "POST", "/orders/o3/cancellation", `{"reason":"too small","date":"2026-01-04"}`)
	s.Must(200, "POST", "/orders/o4/payment", `{"amount":100,"currency":"EUR","date":"2026-01-08"}`)
	s.Must(200, "POST", "/items/jug/receipts", `{"name":"Milk jug","quantity":1}`)
	s.Must(200, "POST", "/orders/o4/shipment", `{"carrier":"DHL","tracking":"J2","date":"2026-01-08"}`)

	for path, want := range map[string]string{
		"/orders/o1": `{"id":"o1","customer":"ada","status":"returned","currency":"EUR","total":400,"placed_on":"2026-01-01",
			"lines":[{"item":"cup","name":"Nice cup","quantity":4,"price":100}],"carrier":"DHL","tracking":"J1","reason":"chipped","version":5}`,
		"/items": `{"items":[
			{"item":"cup","name":"Nice cup","received":14,"available":9,"reserved":0,"shipped":5,"orders":2,"last_ordered_on":"2026-01-03","version":6},
			{"item":"jug","name":"Milk jug","received":2,"available":2,"reserved":0,"shipped":0,"orders":1,"last_ordered_on":"2026-01-03","version":4},
			{"item":"pot","name":"Nice pot","received":2,"available":1,"reserved":1,"shipped":0,"orders":1,"last_ordered_on":"2026-01-02","version":2}]}`,
		"/items/jug": `{"item":"jug","name":"Milk jug","received":2,"available":2,"reserved":0,"shipped":0,"orders":1,"last_ordered_on":"2026-01-03","version":4}`,
		"/customers/ada": `{"customer":"ada","totals":[
			{"currency":"EUR","orders":3,"cancelled":1,"returned":1,"paid":500,"refunded":400,"last_order_on":"2026-01-03"}]}`,
		"/revenue/days": `{"days":[
			{"day":"2026-01-05","currency":"EUR","units":5,"paid":500,"refunded":0,"revenue":500},
			{"day":"2026-01-08","currency":"EUR","units":-3,"paid":100,"refunded":400,"revenue":-300}]}`,
		"/revenue/products": `{"products":[
			{"item":"cup","name":"Nice cup","currency":"EUR","units":1,"paid":500,"refunded":400,"revenue":100},
			{"item":"pot","name":"Nice pot","currency":"EUR","units":1,"paid":100,"refunded":0,"revenue":100}]}`,
		"/revenue/products?from=2026-01-06": `{"products":[
			{"item":"cup","name":"Nice cup","currency":"EUR","units":-3,"paid":100,"refunded":400,"revenue":-300}]}`,
		"/revenue/products?to=2026-01-05": `{"products":[
			{"item":"cup","name":"Nice cup","currency":"EUR","units":4,"paid":400,"refunded":0,"revenue":400},
			{"item":"pot","name":"Nice pot","currency":"EUR","units":1,"paid":100,"refunded":0,"revenue":100}]}`,
		"/revenue/days?to=2026-01-05": `{"days":[{"day":"2026-01-05","currency":"EUR","units":5,"paid":500,"refunded":0,"revenue":500}]}`,
	} {
		var wanted map[string]any
		if err := json.Unmarshal([]byte(want), &wanted); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(wanted, s.get(path).Body); diff != "" {
			t.Errorf("GET %s (-want +got):\n%s", path, diff)
		}
	}
	if n := len(s.Must(200, "GET", "/health", "").Body["projections"].([]any)); n != 4 {
		t.Errorf("health knows %d projections, want 4", n)
	}
	var lines int
	if err := s.pool.QueryRow(t.Context(), `select count(*) from shop.revenue_lines`).Scan(&lines); err != nil || lines != 2 {
		t.Errorf("the revenue remembers %d lines, %v; want those of the two orders that have not ended", lines, err)
	}
	s.audited()
}

// TestReturnKeepsTheName: a return does not change the present name of the item, and the order keeps the name that the
// item had when it was ordered.
func TestReturnKeepsTheName(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.stock(map[string]int{"cup": 1})
	s.place("o", "ada", "2026-01-01", map[string]int{"cup": 1})
	s.Must(200, "POST", "/items/cup/receipts", `{"name":"Mug","quantity":1}`)
	for _, step := range []string{"payment", "shipment", "delivery", "return"} {
		s.Must(200, "POST", "/orders/o/"+step, goodBody(step))
	}
	line := s.get("/orders/o").Body["lines"].([]any)[0].(map[string]any)
	if item := s.get("/items/cup").Body; item["name"] != "Mug" || item["available"] != 2.0 || line["name"] != "Nice cup" {
		t.Errorf("item %v, line %v", item, line)
	}
	s.audited()
}

// ids returns the ids in a page, and the cursor of the next page.
func ids(a servicetest.Answer, list, key string) (found []string, next string) {
	for _, row := range a.Body[list].([]any) {
		found = append(found, fmt.Sprint(row.(map[string]any)[key]))
	}
	next, _ = a.Body["next"].(string)
	return found, next
}

// TestOrderList filters, sorts and pages through a customer's orders.
func TestOrderList(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.stock(map[string]int{"cup": 100, "pot": 100, "jug": 100})
	s.place("a", "ada", "2026-01-03", map[string]int{"cup": 1})
	s.place("b", "ada", "2026-01-01", map[string]int{"pot": 5})
	s.place("c", "ada", "2026-01-02", map[string]int{"cup": 3, "jug": 2})
	s.place("d", "ada", "2026-01-02", map[string]int{"pot": 1})
	s.place("e", "ada", "2026-01-04", map[string]int{"cup": 2})
	s.place("x", "bob", "2026-01-02", map[string]int{"cup": 2})
	s.Must(200, "POST", "/orders/b/payment", `{"amount":500,"currency":"EUR"}`)
	s.Must(200, "POST", "/orders/d/cancellation", `{"reason":"why not"}`)

	for query, want := range map[string]string{
		"":                                   "e a d c b",
		"sort=date":                          "b c d a e",
		"sort=total":                         "a d e b c",
		"sort=-total":                        "c b e d a",
		"status=paid":                        "b",
		"status=paid&status=cancelled":       "d b",
		"from=2026-01-02&to=2026-01-03":      "a d c",
		"max=0":                              "",
		"max=5000000000":                     "e a d c b",
		"currency=EUR&sort=date":             "b c d a e",
		"currency=USD":                       "",
		"min=200&max=500":                    "e c b",
		"min=101&sort=total":                 "e b c",
		"q=cup":                              "e a c",
		"q=nice+-cup":                        "d b",
		"q=jug+or+pot&sort=date&status=paid": "b",
		"q=nothing":                          "",
	} {
		for _, limit := range []int{0, 1, 2, 3} { // page by page the list is the same
			var got []string
			path := "/customers/ada/orders?" + query
			if limit > 0 {
				path += fmt.Sprintf("&limit=%d", limit)
			}
			for next := "start"; next != "" && len(got) < 10; {
				page := path
				if next != "start" {
					page += "&after=" + next
				}
				var found []string
				found, next = ids(s.get(page), "orders", "id")
				got = append(got, found...)
			}
			if strings.Join(got, " ") != want {
				t.Errorf("%s, %d at a time: %q, want %q", query, limit, got, want)
			}
		}
	}
	if got, _ := ids(s.get("/customers/nobody/orders"), "orders", "id"); len(got) != 0 {
		t.Errorf("nobody's orders: %q", got)
	}
	if got, _ := ids(s.get("/items?q=nice+-pot"), "items", "item"); strings.Join(got, " ") != "cup jug" {
		t.Errorf("items found: %q", got)
	}
	first, next := ids(s.get("/items?limit=2"), "items", "item")
	second, _ := ids(s.get("/items?limit=2&after="+next), "items", "item")
	if got := strings.Join(append(first, second...), " "); got != "cup jug pot" {
		t.Errorf("items, page by page: %s", got)
	}
}

// TestRevenuePages pages through the revenue, in two currencies.
func TestRevenuePages(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.stock(map[string]int{"cup": 100, "pot": 100})
	for i, day := range []string{"2026-01-01", "2026-01-01", "2026-01-02"} {
		id, currency := fmt.Sprintf("o%d", i), []string{"USD", "EUR", "EUR"}[i]
		order := strings.Replace(placing(id, "ada", day, map[string]int{"cup": 1, "pot": 1}), "EUR", currency, 1)
		s.Must(201, "POST", "/orders", order)
		s.Must(200, "POST", "/orders/"+id+"/payment", fmt.Sprintf(`{"amount":200,"currency":%q,"date":%q}`, currency, day))
	}
	for list, test := range map[string]struct{ key, want string }{
		"days":     {"day", "2026-01-01 EUR 2026-01-01 USD 2026-01-02 EUR"},
		"products": {"item", "cup EUR cup USD pot EUR pot USD"},
	} {
		var got []string
		for next := "start"; next != "" && len(got) < 10; {
			path := "/revenue/" + list + "?limit=1"
			if next != "start" {
				path += "&after=" + next
			}
			var found []string
			page := s.get(path)
			found, next = ids(page, list, test.key)
			if len(found) > 0 {
				currencies, _ := ids(page, list, "currency")
				got = append(got, found[0]+" "+currencies[0])
			}
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s: %q, want %s", list, got, test.want)
		}
	}
}

func TestVersions(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.stock(map[string]int{"cup": 10})
	placed := s.Must(201, "POST", "/orders", `{"customer":"ada","currency":"EUR","lines":[{"item":"cup","quantity":1,"price":100}]}`)
	path := placed.Header.Get("Location")
	if placed.Header.Get("ETag") != `"1"` || path != "/orders/"+placed.Body["id"].(string) {
		t.Errorf("placed: %v", placed.Header)
	}
	if seen := s.get(path).Header.Get("ETag"); seen != `"1"` {
		t.Errorf("ETag %s", seen)
	}
	payment := `{"amount":100,"currency":"EUR"}`
	for _, match := range []string{`"2"`, `"0"`, `W/"1"`, `"x"`} {
		s.Must(412, "POST", path+"/payment", payment, "If-Match", match)
		s.Must(412, "POST", path+"/cancellation", `{"reason":"x"}`, "If-Match", match)
	}
	s.Must(400, "POST", path+"/payment", payment, "If-Match", "1")
	s.Must(200, "POST", path+"/payment", payment, "If-Match", `"1"`)
	s.Must(200, "POST", path+"/cancellation", `{"reason":"x"}`, "If-Match", `"2"`)
	s.Must(412, "POST", "/items/cup/receipts", `{"name":"Cup","quantity":1}`, "If-Match", `"1"`)
	s.Must(200, "POST", "/items/cup/receipts", `{"name":"Cup","quantity":1}`, "If-Match", s.get("/items/cup").Header.Get("ETag"))
	if n := s.events(); n != 7 {
		t.Errorf("%d events, want 7", n)
	}
}

// TestIdempotencyKey repeats each command, one after the other and several times at once.
func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	s := start(t)
	requests := [][2]string{
		{"/items/cup/receipts", `{"name":"Cup","quantity":2}`},
		{"/orders", `{"customer":"ada","currency":"EUR","lines":[{"item":"cup","quantity":2,"price":100}]}`}, // the stock is too small to do it twice
		{"/orders/ID/payment", `{"amount":200,"currency":"EUR","date":"2026-01-01"}`},
		{"/orders/ID/shipment", `{"carrier":"DHL","tracking":"1"}`},
		{"/orders/ID/delivery", `{}`},
		{"/orders/ID/return", `{"reason":"x"}`},
		{"/orders", `{"id":"second","customer":"ada","currency":"EUR","lines":[{"item":"cup","quantity":2,"price":100}]}`},
		{"/orders/second/cancellation", `{"reason":"x"}`},
	}
	id := ""
	for _, request := range requests {
		path, body := strings.ReplaceAll(request[0], "ID", id), request[1]
		var answers [4]servicetest.Answer
		var clients sync.WaitGroup
		for i := range answers {
			clients.Go(func() { answers[i] = s.Do("POST", path, body, "Idempotency-Key", path+body) })
		}
		clients.Wait()
		for _, a := range append(answers[:], s.Do("POST", path, body, "Idempotency-Key", path+body)) {
			if a.Status/100 != 2 || a.Text != answers[0].Text || a.Header.Get("Location") != answers[0].Header.Get("Location") {
				t.Errorf("%s: %d %s, another: %d %s", path, a.Status, a.Text, answers[0].Status, answers[0].Text)
			}
		}
		reused := s.Must(422, "POST", path, strings.Replace(body, "{", "{ ", 1), "Idempotency-Key", path+body)
		if reused.Body["type"] != "urn:orders:idempotency-key-reused" {
			t.Errorf("%s: %s", path, reused.Text)
		}
		if path == "/orders" && id == "" {
			id = answers[0].Body["id"].(string)
		}
	}
	if n, want := s.events(), 1+2+1+2+1+2+2+2; n != want {
		t.Errorf("%d events, want %d", n, want)
	}
	s.audited()
}

// TestLastOnes lets many customers order the last units of two items at the same time. As many orders succeed as there
// are units. Each order gets both items or none, and the answer to a refused order says how many units are left.
func TestLastOnes(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.stock(map[string]int{"cup": 7, "pot": 50})
	var clients sync.WaitGroup
	var mu sync.Mutex
	statuses := make(map[int]int)
	for i := range 20 {
		clients.Go(func() {
			a := s.Do("POST", "/orders", placing(fmt.Sprintf("o%d", i), "ada", "2026-01-01", map[string]int{"cup": 1, "pot": 2}))
			mu.Lock()
			defer mu.Unlock()
			statuses[a.Status]++
			if a.Status == 409 && (a.Body["type"] != "urn:orders:out-of-stock" || a.Body["item"] != "cup" || a.Body["available"] != 0.0) {
				t.Errorf("refused: %s", a.Text)
			}
		})
	}
	clients.Wait()
	if statuses[201] != 7 || statuses[409] != 13 {
		t.Errorf("answers by status: %v, want 7 placed and 13 refused", statuses)
	}
	cup, pot := s.get("/items/cup").Body, s.get("/items/pot").Body
	if cup["available"] != 0.0 || cup["reserved"] != 7.0 || pot["available"] != 36.0 || pot["reserved"] != 14.0 {
		t.Errorf("cup %v, pot %v", cup, pot)
	}
	s.audited()
}

// TestTogether sends requests that exclude each other at the same time, without idempotency keys. One of them
// succeeds, and the answers to the others say why they are refused.
func TestTogether(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.stock(map[string]int{"cup": 100, "pot": 100, "last": 8})
	together := func(requests ...[2]string) (done int) {
		answers := make([]servicetest.Answer, len(requests))
		var clients sync.WaitGroup
		for i, request := range requests {
			clients.Go(func() { answers[i] = s.Do("POST", request[0], request[1]) })
		}
		clients.Wait()
		for i, a := range answers {
			switch {
			case a.Status/100 == 2:
				done++
			case a.Status != 409 || a.Body["type"] != "urn:orders:order-exists" && a.Body["type"] != "urn:orders:wrong-state":
				t.Errorf("%s: %d %s", requests[i][0], a.Status, a.Text)
			}
		}
		return done
	}
	for n := range 8 {
		id := fmt.Sprint("o", n)
		place := [2]string{"/orders", placing(id, "ada", "2026-01-01", map[string]int{"cup": 1, "pot": 1, "last": 1})}
		if done := together(place, place, place, place, place, place); done != 1 {
			t.Errorf("order %s was placed %d times", id, done)
		}
		s.Must(200, "POST", "/orders/"+id+"/payment", `{"amount":300,"currency":"EUR"}`)
		ship, cancel := [2]string{"/orders/" + id + "/shipment", goodBody("shipment")}, [2]string{"/orders/" + id + "/cancellation", goodBody("cancellation")}
		if done := together(ship, cancel, ship, cancel, ship, cancel); done != 1 {
			t.Errorf("order %s was shipped and cancelled %d times", id, done)
		}
	}
	s.audited()
}

// TestFirstRelease runs today's service on a log that the first release has stored.
func TestFirstRelease(t *testing.T) {
	t.Parallel()
	s := start(t)
	text, err := os.ReadFile("order/testdata/release1.json")
	if err != nil {
		t.Fatal(err)
	}
	var log []struct {
		Stream, Type string
		Schema       int
		Data         json.RawMessage
	}
	if err := json.Unmarshal(text, &log); err != nil {
		t.Fatal(err)
	}
	placed := ""
	for _, event := range log {
		id, err := eventstore.ParseStreamID(event.Stream)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.store.Append(t.Context(), id, eventstore.Any, eventstore.Draft{Type: event.Type, Schema: event.Schema, Data: event.Data}); err != nil {
			t.Fatal(err)
		}
		if event.Type == "order.placed" {
			if order := s.get("/orders/" + id.Key); order.Body["currency"] != "EUR" {
				t.Errorf("an old order: %s, want it in EUR", order.Text)
			}
			placed += " " + id.Key
		}
	}
	s.audited()
	open := 0
	for _, id := range strings.Fields(placed) {
		order := s.get("/orders/" + id)
		if order.Body["status"] != "placed" {
			continue
		}
		open++
		payment := func(currency string) string {
			return fmt.Sprintf(`{"amount":%v,"currency":%q}`, order.Body["total"], currency)
		}
		s.Must(422, "POST", "/orders/"+id+"/payment", payment("USD"))
		s.Must(200, "POST", "/orders/"+id+"/payment", payment("EUR"))
		s.Must(200, "POST", "/orders/"+id+"/shipment", goodBody("shipment"))
	}
	if open == 0 {
		t.Error("the fixture has no order that can still be paid")
	}
	s.audited()
}

// TestReadingAfterWriting stops one projection at a time. The queries that need it are answered with 503, and all
// others with 200.
func TestReadingAfterWriting(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.stock(map[string]int{"cup": 100})
	s.place("o", "ada", "2026-01-01", map[string]int{"cup": 1})
	s.audited() // waits until all read models are up to date
	needs := map[string]string{
		"/orders/o": ordersModel, "/customers/ada/orders": ordersModel, "/customers/ada": customersModel,
		"/items": itemsModel, "/items/cup": itemsModel, "/revenue/days": revenueModel, "/revenue/products": revenueModel + itemsModel,
	}
	models := []string{ordersModel, customersModel, itemsModel, revenueModel}
	for n, stopped := range models {
		if err := s.runner.Operator().Pause(t.Context(), projection.Ref{Name: stopped, Version: projection.AllVersions}, "a test"); err != nil {
			t.Fatal(err)
		}
		s.place(fmt.Sprint("o", n), "ada", "2026-01-01", map[string]int{"cup": 1})
		end, err := s.store.Tidemark(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		others := slices.DeleteFunc(slices.Clone(models), func(name string) bool { return name == stopped })
		if err := s.runner.Wait(t.Context(), end, others...); err != nil {
			t.Fatal(err)
		}
		for path, model := range needs {
			ctx, cancel := context.WithCancel(t.Context())
			status := 200
			if strings.Contains(model, stopped) {
				status = 503
				cancel() // the query would wait
			}
			request := httptest.NewRequestWithContext(ctx, "GET", path, nil)
			request.Header.Set(httpapi.PositionHeader, end.String())
			recorder := httptest.NewRecorder()
			s.mux.ServeHTTP(recorder, request)
			cancel()
			if recorder.Code != status || status == 503 && !strings.Contains(recorder.Body.String(), "read-model-behind") {
				t.Errorf("GET %s without %s: %d %s, want %d", path, stopped, recorder.Code, recorder.Body, status)
			}
		}
		if err := s.runner.Operator().Resume(t.Context(), projection.Ref{Name: stopped, Version: projection.AllVersions}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestOpenTogether opens several services on an empty database at the same time, as several processes do.
func TestOpenTogether(t *testing.T) {
	t.Parallel()
	url := tidemarktest.EmptyURL(t, nil)
	var services sync.WaitGroup
	for range 6 {
		services.Go(func() {
			s, err := open(t.Context(), url)
			if err != nil {
				t.Error(err)
				return
			}
			s.close()
		})
	}
	services.Wait()
}
