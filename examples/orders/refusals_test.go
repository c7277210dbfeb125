package main

import (
	"strings"
	"testing"

	"github.com/tidemark-es/tidemark/examples/internal/servicetest"
	"github.com/tidemark-es/tidemark/httpapi"
)

// TestBadRequests sends each endpoint requests that it must refuse. Nothing is stored.
func TestBadRequests(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.stock(map[string]int{"cup": 10, "pot": 1})
	for id, steps := range map[string][]string{
		"placed": nil, "paid": {"payment"}, "shipped": {"payment", "shipment"}, "delivered": {"payment", "shipment", "delivery"},
		"cancelled": {"cancellation"}, "returned": {"payment", "shipment", "delivery", "return"},
	} {
		s.place(id, "ada", "2026-01-01", map[string]int{"cup": 1})
		for _, step := range steps {
			s.Must(200, "POST", "/orders/"+id+"/"+step, goodBody(step))
		}
	}
	before := s.events()

	refusals := servicetest.Refusals{
		{"POST", "/orders", placing("o", "ada", "2026-01-01", map[string]int{"pot": 2}), 409, "out-of-stock"},
		{"POST", "/orders", placing("o", "ada", "2026-01-01", map[string]int{"none": 1}), 404, "unknown-item"},
		{"POST", "/orders", placing("placed", "ada", "2026-01-01", map[string]int{"cup": 1}), 409, "order-exists"},
		{"POST", "/orders", placing("placed", "ada", "2026-01-01", map[string]int{"pot": 9}), 409, "order-exists"},
		{"POST", "/orders", placing("o", "", "2026-01-01", map[string]int{"cup": 1}), 422, "invalid-id"},
		{"POST", "/orders", placing("a b", "ada", "2026-01-01", map[string]int{"cup": 1}), 422, "invalid-id"},
		{"POST", "/orders", placing("o", "ada", "2026-01-01", map[string]int{"../cup": 1}), 422, "invalid-id"},
		{"POST", "/orders", placing("o", "ada", "2026-02-30", map[string]int{"cup": 1}), 422, "invalid-date"},
		{"POST", "/orders", placing("o", "ada", "2026-01-01", nil), 422, "invalid-lines"},
		{"POST", "/orders", placing("o", "ada", "2026-01-01", map[string]int{"cup": 0}), 422, "invalid-lines"},
		{"POST", "/orders", placing("o", "ada", "2026-01-01", map[string]int{"cup": -1}), 422, "invalid-lines"},
		{"POST", "/orders", placing("o", "ada", "2026-01-01", map[string]int{"cup": 1001}), 422, "invalid-lines"},
		{"POST", "/orders", `{"customer":"ada","currency":"EUR","lines":[{"item":"cup","quantity":1,"price":1},{"item":"cup","quantity":1,"price":1}]}`, 422, "invalid-lines"},
		{"POST", "/orders", `{"customer":"ada","currency":"EUR","lines":[{"item":"cup","quantity":1,"price":0}]}`, 422, "invalid-lines"},
		{"POST", "/orders", `{"customer":"ada","currency":"euro","lines":[{"item":"cup","quantity":1,"price":1}]}`, 422, "invalid-currency"},
		{"POST", "/orders", `{"customer":"ada","lines":[{"item":"cup","quantity":1,"price":1}]}`, 422, "invalid-currency"},
		{"POST", "/orders", `{"customer":"ada","currency":"EUR","lines":[{"item":"cup","name":"x","quantity":1,"price":1}]}`, 400, "invalid-request"},
		{"POST", "/orders", `{"customer":"ada","currency":"EUR","lines":[{"item":"cup","quantity":1.5,"price":1}]}`, 400, "invalid-request"},
		{"POST", "/orders", `{"customer":"ada","currency":"EUR","lines":"cup"}`, 400, "invalid-request"},
		{"POST", "/orders", `{"customer":"` + strings.Repeat("x", 64<<10) + `"}`, 413, "too-large"},
		{"POST", "/orders/paid/payment", `{"amount":100,"currency":"EUR"}`, 409, "wrong-state"},
		{"POST", "/orders/placed/payment", `{"amount":99,"currency":"EUR"}`, 422, "wrong-payment"},
		{"POST", "/orders/placed/payment", `{"amount":100,"currency":"USD"}`, 422, "wrong-payment"},
		{"POST", "/orders/placed/payment", `{"amount":100}`, 422, "invalid-currency"},
		{"POST", "/orders/paid/shipment", `{"carrier":"","tracking":"1"}`, 422, "invalid-text"},
		{"POST", "/orders/paid/shipment", `{"carrier":"DHL","tracking":"` + strings.Repeat("x", 201) + `"}`, 422, "invalid-text"},
		{"POST", "/orders/placed/cancellation", `{"reason":"a\u0000b"}`, 422, "invalid-text"},
		{"POST", "/orders/placed/cancellation", `{}`, 422, "invalid-text"},
		{"POST", "/orders/placed/cancellation", `{"reason":"x","refunded":5}`, 400, "invalid-request"},
		{"POST", "/orders/placed/cancellation", `{"reason":"x","date":"soon"}`, 422, "invalid-date"},
		{"POST", "/orders/shipped/delivery", `{"date":""}`, 422, "invalid-date"},
		{"POST", "/orders/a%00b/delivery", `{}`, 400, "invalid-request"},
		{"POST", "/orders/a%20%FF/delivery", `{}`, 400, "invalid-request"},
		{"POST", "/items/cup/receipts", `{"name":"Cup","quantity":0}`, 422, "invalid-quantity"},
		{"POST", "/items/cup/receipts", `{"name":"Cup","quantity":-3}`, 422, "invalid-quantity"},
		{"POST", "/items/cup/receipts", `{"name":"Cup","quantity":1000001}`, 422, "invalid-quantity"},
		{"POST", "/items/cup/receipts", `{"name":"","quantity":1}`, 422, "invalid-text"},
		{"POST", "/items/a b/receipts", `{"name":"Cup","quantity":1}`, 422, "invalid-id"},
		{"POST", "/items/cup/receipts", `{"name":"Cup","quantity":1,"order":"placed"}`, 400, "invalid-request"},
		{"GET", "/orders/none", ``, 404, "unknown-order"},
		{"GET", "/items/none", ``, 404, "unknown-item"},
		{"GET", "/customers/none", ``, 404, "unknown-customer"},
		{"GET", "/customers/ada/orders?status=lost", ``, 400, "invalid-request"},
		{"GET", "/customers/ada/orders?sort=colour", ``, 400, "invalid-request"},
		{"GET", "/customers/ada/orders?from=x", ``, 400, "invalid-request"},
		{"GET", "/customers/ada/orders?min=-1", ``, 400, "invalid-request"},
		{"GET", "/customers/ada/orders?max=x", ``, 400, "invalid-request"},
		{"GET", "/customers/ada/orders?max=9223372036854775808", ``, 400, "invalid-request"},
		{"GET", "/customers/ada/orders?currency=euro", ``, 400, "invalid-request"},
		{"GET", "/customers/ada/orders?limit=0", ``, 400, "invalid-request"},
		{"GET", "/customers/ada/orders?q=%00", ``, 400, "invalid-request"},
		{"GET", "/customers/ada/orders?after=x", ``, 400, "invalid-request"},
		{"GET", "/customers/ada/orders?after=" + newCursor("total", "12", "placed"), ``, 400, "invalid-request"},
		{"GET", "/customers/ada/orders?after=" + newCursor("date", "2026-01-01", "placed"), ``, 400, "invalid-request"},
		{"GET", "/customers/ada/orders?after=" + newCursor("-date", "12", "placed"), ``, 400, "invalid-request"},
		{"GET", "/customers/ada/orders?sort=total&after=" + newCursor("total", "2026-01-01", "placed"), ``, 400, "invalid-request"},
		{"GET", "/customers/ada/orders?after=" + newCursor("-date", "2026-01-01", "a\x00"), ``, 400, "invalid-request"},
		{"GET", "/items?limit=1001", ``, 400, "invalid-request"},
		{"GET", "/items?q=" + strings.Repeat("x", 201), ``, 400, "invalid-request"},
		{"GET", "/revenue/days?to=never", ``, 400, "invalid-request"},
		{"GET", "/revenue/days?after=" + newCursor("days", "soon", "EUR"), ``, 400, "invalid-request"},
		{"GET", "/revenue/products?limit=x", ``, 400, "invalid-request"},
		{"GET", "/revenue", ``, 404, "no-such-endpoint"},
		{"DELETE", "/orders/placed", ``, 405, "no-such-endpoint"},
	}
	// Every step in every state that does not allow it, every step on an unknown order, and bodies that
	// no step accepts.
	allowed := map[string]string{"payment": "placed", "shipment": "paid", "delivery": "shipped", "cancellation": "placed paid", "return": "delivered"}
	for step, states := range allowed {
		for _, state := range []string{"placed", "paid", "shipped", "delivered", "cancelled", "returned"} {
			if !strings.Contains(states, state) {
				refusals = append(refusals, servicetest.Refusals{{"POST", "/orders/" + state + "/" + step, goodBody(step), 409, "wrong-state"}}...)
			}
		}
		refusals = append(refusals, servicetest.Refusals{{"POST", "/orders/none/" + step, goodBody(step), 404, "unknown-order"}}...)
	}
	for _, path := range []string{"/orders", "/orders/placed/payment", "/orders/paid/shipment", "/orders/shipped/delivery",
		"/orders/placed/cancellation", "/orders/delivered/return", "/items/cup/receipts"} {
		refusals = append(refusals, servicetest.Refusals{{"POST", path, `{"reason":"` + strings.Repeat("x", 64<<10) + `"}`, 413, "too-large"}}...)
		for _, body := range []string{``, `null`, `[]`, `"x"`, `{`, `{} {}`, `{"nonsense":1}`, `{"date":1}`} {
			refusals = append(refusals, servicetest.Refusals{{"POST", path, body, 400, "invalid-request"}}...)
		}
	}
	s.Refused("urn:orders:", refusals)
	s.Must(415, "POST", "/orders", `customer=ada`, "Content-Type", "application/x-www-form-urlencoded")
	s.Must(400, "GET", "/items", ``, httpapi.PositionHeader, "yesterday")

	out := s.Must(409, "POST", "/orders", placing("o", "ada", "2026-01-01", map[string]int{"pot": 2}))
	if out.Body["item"] != "pot" || out.Body["available"] != 1.0 {
		t.Errorf("out of stock: %s, want the item and what is left", out.Text)
	}
	if wrong := s.Must(422, "POST", "/orders/placed/payment", `{"amount":1,"currency":"EUR"}`); wrong.Body["due"] != 100.0 || wrong.Body["currency"] != "EUR" {
		t.Errorf("wrong payment: %s, want what is due", wrong.Text)
	}
	if state := s.Must(409, "POST", "/orders/paid/payment", goodBody("payment")); state.Body["state"] != "paid" {
		t.Errorf("wrong state: %s, want the state", state.Text)
	}
	if n := s.events(); n != before {
		t.Errorf("%d events were stored by requests that were refused", n-before)
	}
	s.audited()
}

func goodBody(step string) string {
	return map[string]string{
		"payment": `{"amount":100,"currency":"EUR"}`, "shipment": `{"carrier":"DHL","tracking":"1"}`, "delivery": `{}`,
		"cancellation": `{"reason":"changed my mind"}`, "return": `{"reason":"does not fit"}`,
	}[step]
}
