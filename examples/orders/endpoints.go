package main

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/examples/orders/order"
	"github.com/tidemark-es/tidemark/examples/orders/stock"
	"github.com/tidemark-es/tidemark/httpapi"
)

func (a *api) receive(w http.ResponseWriter, r *http.Request) error {
	var body struct {
		Name     string `json:"name"`
		Quantity int64  `json:"quantity"`
	}
	id, seen, err := target(r, &body)
	if err != nil {
		return err
	}
	return a.dispatch(w, r, http.StatusOK, id, ReceiveStock{id, seen, stock.Received{Name: body.Name, Quantity: body.Quantity}})
}

func (a *api) place(w http.ResponseWriter, r *http.Request) error {
	type line struct {
		Item     string `json:"item"`
		Quantity int64  `json:"quantity"`
		Price    int64  `json:"price"`
	}
	var body struct {
		ID       string     `json:"id"` // chosen by the client; if it is empty, by the service
		Customer string     `json:"customer"`
		Currency string     `json:"currency"`
		Lines    []line     `json:"lines"`
		Date     order.Date `json:"date"`
	}
	body.Date = order.Today()
	if err := httpapi.Decode(r, &body); err != nil {
		return err
	}
	id := cmp.Or(body.ID, httpapi.NewID(r))
	placed := order.Placed{Customer: body.Customer, Currency: body.Currency, Date: body.Date}
	for _, l := range body.Lines {
		placed.Lines = append(placed.Lines, order.Line{Item: l.Item, Quantity: l.Quantity, Price: l.Price})
	}
	w.Header().Set("Location", "/orders/"+url.PathEscape(id))
	return a.dispatch(w, r, http.StatusCreated, id, PlaceOrder{id, placed})
}

func (a *api) pay(w http.ResponseWriter, r *http.Request) error {
	var body struct {
		order.Paid
		Currency string `json:"currency"`
	}
	body.Date = order.Today()
	id, seen, err := target(r, &body)
	if err != nil {
		return err
	}
	return a.dispatch(w, r, http.StatusOK, id, PayOrder{id, seen, body.Currency, body.Paid})
}

func (a *api) ship(w http.ResponseWriter, r *http.Request) error {
	body := order.Shipped{Date: order.Today()}
	id, seen, err := target(r, &body)
	if err != nil {
		return err
	}
	return a.dispatch(w, r, http.StatusOK, id, ShipOrder{id, seen, body})
}

func (a *api) deliver(w http.ResponseWriter, r *http.Request) error {
	body := order.Delivered{Date: order.Today()}
	id, seen, err := target(r, &body)
	if err != nil {
		return err
	}
	return a.dispatch(w, r, http.StatusOK, id, DeliverOrder{id, seen, body})
}

// ending is the body of a cancellation or a return.
type ending struct {
	Reason string     `json:"reason"`
	Date   order.Date `json:"date"`
}

func (a *api) cancel(w http.ResponseWriter, r *http.Request) error {
	body := ending{Date: order.Today()}
	id, seen, err := target(r, &body)
	if err != nil {
		return err
	}
	return a.dispatch(w, r, http.StatusOK, id, CancelOrder{id, seen, order.Cancelled{Reason: body.Reason, Date: body.Date}})
}

func (a *api) takeBack(w http.ResponseWriter, r *http.Request) error {
	body := ending{Date: order.Today()}
	id, seen, err := target(r, &body)
	if err != nil {
		return err
	}
	return a.dispatch(w, r, http.StatusOK, id, ReturnOrder{id, seen, order.Returned{Reason: body.Reason, Date: body.Date}})
}

// target reads what all commands on an existing order or item have: its id, the version in If-Match and
// the body.
func target(r *http.Request, body any) (id string, seen eventstore.Version, err error) {
	if seen, err = httpapi.IfMatch(r); err != nil {
		return "", 0, err
	}
	return r.PathValue("id"), seen, httpapi.Decode(r, body)
}

// dispatch sends a command and answers with its receipt.
func (a *api) dispatch(w http.ResponseWriter, r *http.Request, status int, id string, c any) error {
	receipt, err := a.bus.Dispatch(r.Context(), c)
	if err != nil {
		return err
	}
	return httpapi.WriteReceipt(w, status, id, receipt)
}

// order answers from the read model. The ETag is the version of the order that the row shows.
func (a *api) order(w http.ResponseWriter, r *http.Request) error {
	row, err := a.queries.order(r.Context(), OneOrder{r.PathValue("id")})
	if err != nil {
		return err
	}
	w.Header().Set("ETag", httpapi.ETag(row.Version))
	return httpapi.WriteJSON(w, http.StatusOK, row)
}

func (a *api) orders(w http.ResponseWriter, r *http.Request) (err error) {
	q := OrderList{
		Customer: r.PathValue("id"),
		Statuses: r.Form["status"],
		Sort:     cmp.Or(r.FormValue("sort"), "-date"),
	}
	for _, status := range q.Statuses {
		if !slices.Contains(order.Statuses, order.Status(status)) {
			return httpapi.BadRequest("status=%s: want one of %v", status, order.Statuses)
		}
	}
	sort, ok := orderSorts[q.Sort]
	if !ok {
		return httpapi.BadRequest("sort=%s: want one of %v", q.Sort, slices.Sorted(maps.Keys(orderSorts)))
	}
	if q.From, q.To, err = period(r); err != nil {
		return err
	}
	if q.Min, err = amount(r, "min", 0); err != nil {
		return err
	}
	if q.Max, err = amount(r, "max", math.MaxInt64); err != nil {
		return err
	}
	if q.Currency = r.FormValue("currency"); q.Currency != "" && order.ValidCurrency(q.Currency) != nil {
		return httpapi.BadRequest("%v", order.ValidCurrency(q.Currency))
	}
	if q.Text, err = searchText(r); err != nil {
		return err
	}
	if q.After, err = cursor(r, q.Sort, sort.isValue); err != nil {
		return err
	}
	if q.Limit, err = httpapi.Limit(r, usualPage, maxPage); err != nil {
		return err
	}
	rows, err := a.queries.orders(r.Context(), q)
	if err != nil {
		return err
	}
	return httpapi.WritePage(w, "orders", rows, q.Limit, func(o OrderRow) string { return newCursor(q.Sort, sort.value(o), o.ID) })
}

func (a *api) customer(w http.ResponseWriter, r *http.Request) error {
	rows, err := a.queries.customer(r.Context(), OneCustomer{r.PathValue("id")})
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, map[string]any{"customer": r.PathValue("id"), "totals": rows})
}

func (a *api) item(w http.ResponseWriter, r *http.Request) error {
	row, err := a.queries.item(r.Context(), OneItem{r.PathValue("id")})
	if err != nil {
		return err
	}
	w.Header().Set("ETag", httpapi.ETag(row.Version))
	return httpapi.WriteJSON(w, http.StatusOK, row)
}

func (a *api) items(w http.ResponseWriter, r *http.Request) (err error) {
	q := ItemList{After: r.FormValue("after")}
	if q.Text, err = searchText(r); err != nil {
		return err
	}
	if q.Limit, err = httpapi.Limit(r, usualPage, maxPage); err != nil {
		return err
	}
	rows, err := a.queries.items(r.Context(), q)
	if err != nil {
		return err
	}
	return httpapi.WritePage(w, "items", rows, q.Limit, func(i ItemRow) string { return i.Item })
}

func (a *api) days(w http.ResponseWriter, r *http.Request) error {
	q, err := revenueList(r, "days", isDate)
	if err != nil {
		return err
	}
	rows, err := a.queries.days(r.Context(), q)
	if err != nil {
		return err
	}
	return httpapi.WritePage(w, "days", rows, q.Limit, func(d DayRow) string { return newCursor("days", string(d.Day), d.Currency) })
}

func (a *api) products(w http.ResponseWriter, r *http.Request) error {
	q, err := revenueList(r, "products", func(string) bool { return true })
	if err != nil {
		return err
	}
	rows, err := a.queries.products(r.Context(), q)
	if err != nil {
		return err
	}
	return httpapi.WritePage(w, "products", rows, q.Limit, func(p ProductRow) string { return newCursor("products", p.Item, p.Currency) })
}

func revenueList(r *http.Request, list string, isFirst func(string) bool) (q RevenueList, err error) {
	if q.From, q.To, err = period(r); err != nil {
		return q, err
	}
	if q.After, err = cursor(r, list, isFirst); err != nil {
		return q, err
	}
	q.Limit, err = httpapi.Limit(r, usualPage, maxPage)
	return q, err
}

// period reads the parameters from and to.
func period(r *http.Request) (from, to order.Date, err error) {
	from, to = order.Date(r.FormValue("from")), order.Date(r.FormValue("to"))
	for _, date := range []order.Date{from, to} {
		if date != "" && !isDate(string(date)) {
			return "", "", httpapi.BadRequest("%v", date.Validate())
		}
	}
	return from, to, nil
}

// amount reads a parameter that is an amount in minor units. It returns without if the request does not have it.
func amount(r *http.Request, name string, without int64) (int64, error) {
	text := r.FormValue(name)
	if text == "" {
		return without, nil
	}
	if !isAmount(text) {
		return 0, httpapi.BadRequest("%s=%s: want a whole number, 0 or more", name, text)
	}
	return strconv.ParseInt(text, 10, 64)
}

// searchText reads the parameter q.
func searchText(r *http.Request) (string, error) {
	text := strings.TrimSpace(r.FormValue("q"))
	if len(text) > 200 {
		return "", httpapi.BadRequest("q: want at most 200 bytes of text to search for")
	}
	return text, nil
}

func isDate(text string) bool { return order.Date(text).Validate() == nil }

func isAmount(text string) bool {
	n, err := strconv.ParseInt(text, 10, 64)
	return err == nil && n >= 0
}

// newCursor returns the text that names a row of a list. It is made of the name of the list, the row's value of the
// column that the list is sorted by, and an id that makes this value unique.
func newCursor(list, value, id string) string {
	text, _ := json.Marshal([]string{list, value, id}) // strings always encode
	return base64.RawURLEncoding.EncodeToString(text)
}

// cursor reads the parameter after, which must come from newCursor for the same list. It returns the value and the id,
// or nil if the request does not have the parameter.
func cursor(r *http.Request, list string, isValue func(string) bool) ([]string, error) {
	text := r.FormValue("after")
	if text == "" {
		return nil, nil
	}
	var parts []string
	data, err := base64.RawURLEncoding.DecodeString(text)
	if err == nil {
		err = json.Unmarshal(data, &parts)
	}
	if err != nil || len(parts) != 3 || parts[0] != list || !isValue(parts[1]) || strings.ContainsRune(parts[1]+parts[2], 0) {
		return nil, httpapi.BadRequest("after=%s: want the value of next from an earlier page of the same list", text)
	}
	return parts[1:], nil
}
