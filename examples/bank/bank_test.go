package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/examples/internal/servicetest"
	"github.com/tidemark-es/tidemark/httpapi"
	"github.com/tidemark-es/tidemark/tidemarktest"
)

// branch is a running bank and a client of it.
type branch struct {
	*servicetest.Client
	*bank
}

func start(t *testing.T) *branch {
	t.Helper()
	b, err := open(t.Context(), tidemarktest.EmptyURL(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.close)
	servicetest.Background(t, b.runner.Run)
	if err := b.runner.Wait(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	return &branch{servicetest.Serve(t, b.mux), b}
}

// openAccounts opens accounts in EUR with 1000 cents each, and returns the position of the last event.
func (s *branch) openAccounts(ids ...string) (position string) {
	s.Helper()
	for _, id := range ids {
		s.Must(201, "POST", "/accounts", `{"account":"`+id+`","owner":"Owner of `+id+`","currency":"EUR","overdraft":500,"date":"2026-01-01"}`)
		position = s.Must(200, "POST", "/accounts/"+id+"/deposits", `{"amount":1000,"currency":"EUR","date":"2026-01-02","description":"Opening balance"}`).Header.Get(httpapi.PositionHeader)
	}
	return position
}

func (s *branch) events() (n int) {
	s.Helper()
	if err := s.pool.QueryRow(s.Context(), `select count(*) from tidemark.events`).Scan(&n); err != nil {
		s.Fatal(err)
	}
	return n
}

// TestWholePath sends commands and then queries all read models.
func TestWholePath(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.openAccounts("ada", "bob")
	s.Must(200, "POST", "/accounts/ada/transfers", `{"to":"bob","amount":300,"currency":"EUR","date":"2026-01-05","description":"Rent for January"}`)
	s.Must(200, "POST", "/accounts/bob/withdrawals", `{"amount":1300,"currency":"EUR","date":"2026-02-01"}`)
	position := s.Must(200, "POST", "/accounts/bob/close", `{"date":"2026-02-02"}`, "If-Match", `"4"`).Header.Get(httpapi.PositionHeader)

	read := func(path string) any { return any(s.Must(200, "GET", path, "", httpapi.PositionHeader, position).Body) }
	row := func(id string, balance, version float64, status string) any {
		return map[string]any{"account": id, "owner": "Owner of " + id, "currency": "EUR", "overdraft": 500.0,
			"balance": balance, "status": status, "opened_on": "2026-01-01", "version": version}
	}
	entry := func(version float64, date, kind string, amount, balance float64, description, counterparty string) any {
		return map[string]any{"version": version, "date": date, "type": kind, "amount": amount, "balance": balance,
			"description": description, "counterparty": counterparty}
	}
	for path, want := range map[string]any{
		"/accounts":           map[string]any{"accounts": []any{row("ada", 700, 3, "open"), row("bob", 0, 5, "closed")}},
		"/accounts?limit=1":   map[string]any{"accounts": []any{row("ada", 700, 3, "open")}, "next": "ada"},
		"/accounts?after=ada": map[string]any{"accounts": []any{row("bob", 0, 5, "closed")}},
		"/accounts/ada/statement": map[string]any{"entries": []any{
			entry(2, "2026-01-02", "deposit", 1000, 1000, "Opening balance", ""),
			entry(3, "2026-01-05", "transfer_sent", -300, 700, "Rent for January", "bob")}},
		"/accounts/bob/statement?from=2026-01-03&to=2026-01-31": map[string]any{"entries": []any{
			entry(3, "2026-01-05", "transfer_received", 300, 1300, "Rent for January", "ada")}},
		"/accounts/bob/statement?type=withdrawal&type=deposit": map[string]any{"entries": []any{
			entry(2, "2026-01-02", "deposit", 1000, 1000, "Opening balance", ""),
			entry(4, "2026-02-01", "withdrawal", -1300, 0, "", "")}},
		"/accounts/bob/statement?limit=1": map[string]any{"next": "2", "entries": []any{
			entry(2, "2026-01-02", "deposit", 1000, 1000, "Opening balance", "")}},
		"/accounts/bob/statement?limit=1&after=2": map[string]any{"next": "3", "entries": []any{
			entry(3, "2026-01-05", "transfer_received", 300, 1300, "Rent for January", "ada")}},
		"/accounts/bob/statement?after=9": map[string]any{"entries": []any{}},
		"/search?q=january+rent": map[string]any{"hits": []any{
			map[string]any{"account": "ada", "owner": "Owner of ada", "version": 3.0, "text": "Rent for January"},
			map[string]any{"account": "bob", "owner": "Owner of bob", "version": 3.0, "text": "Rent for January"}}},
		"/search?q=owner+-ada": map[string]any{"hits": []any{
			map[string]any{"account": "bob", "owner": "Owner of bob", "version": 1.0, "text": "Owner of bob"}}},
		"/search?q=nothing": map[string]any{"hits": []any{}},
		"/accounts/ada": map[string]any{"account": "ada", "owner": "Owner of ada", "currency": "EUR", "overdraft": 500.0,
			"balance": 700.0, "status": "open", "version": 3.0},
	} {
		if diff := cmp.Diff(want, read(path)); diff != "" {
			t.Errorf("GET %s (-want +got):\n%s", path, diff)
		}
	}
	health := s.Must(200, "GET", "/health", "")
	if n := len(health.Body["projections"].([]any)); n != 3 {
		t.Errorf("health knows %d projections, want 3", n)
	}
}

func TestVersions(t *testing.T) {
	t.Parallel()
	s := start(t)
	opened := s.Must(201, "POST", "/accounts", `{"owner":"Ada","currency":"EUR"}`)
	path := opened.Header.Get("Location")
	if opened.Header.Get("ETag") != `"1"` || path != "/accounts/"+opened.Body["id"].(string) {
		t.Errorf("opened: %v", opened.Header)
	}
	deposit := `{"amount":10,"currency":"EUR"}`
	second := s.Must(200, "POST", path+"/deposits", deposit, "If-Match", `"1"`)
	if second.Header.Get("ETag") != `"2"` || s.Must(200, "GET", path, "").Header.Get("ETag") != `"2"` {
		t.Errorf("after a deposit: %v", second.Header)
	}
	stale := s.Must(412, "POST", path+"/deposits", deposit, "If-Match", `"1"`)
	if stale.Body["type"] != "urn:bank:version-conflict" {
		t.Errorf("stale: %s", stale.Text)
	}
	s.Must(412, "POST", path+"/transfers", `{"to":"x","amount":10,"currency":"EUR"}`, "If-Match", `"7"`)
	s.Must(200, "POST", path+"/deposits", deposit, "If-Match", "*")
	for _, match := range []string{`"0"`, `"-1"`, `"x"`, `W/"3"`, `"03"`, `""`} { // valid tags that the bank never sends
		s.Must(412, "POST", path+"/deposits", deposit, "If-Match", match)
	}
	for _, match := range []string{"3", `"3`, `"1", "3"`, `'3'`} {
		s.Must(400, "POST", path+"/deposits", deposit, "If-Match", match)
	}
	if n := s.events(); n != 3 {
		t.Errorf("%d events, want 3", n)
	}
}

func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.openAccounts("ada", "bob")
	before := s.events()
	for _, request := range [][2]string{
		{"/accounts", `{"owner":"Eve","currency":"EUR"}`},
		{"/accounts/ada/deposits", `{"amount":100,"currency":"EUR"}`},
		{"/accounts/ada/withdrawals", `{"amount":1600,"currency":"EUR"}`}, // this request and the next two cannot succeed twice
		{"/accounts/bob/transfers", `{"to":"ada","amount":1000,"currency":"EUR"}`},
		{"/accounts/bob/close", `{"date":"2026-03-01"}`},
	} {
		path, body := request[0], request[1]
		key := "key of " + path
		first := s.Do("POST", path, body, "Idempotency-Key", key)
		again := s.Do("POST", path, body, "Idempotency-Key", key)
		if first.Status/100 != 2 || first.Status != again.Status || first.Text != again.Text ||
			first.Header.Get("ETag") != again.Header.Get("ETag") || first.Header.Get("Location") != again.Header.Get("Location") {
			t.Errorf("%s: %d %s, repeated: %d %s", path, first.Status, first.Text, again.Status, again.Text)
		}
		reused := s.Must(422, "POST", path, strings.NewReplacer("EUR", "CZK", "2026", "2025").Replace(body), "Idempotency-Key", key)
		if reused.Body["type"] != "urn:bank:idempotency-key-reused" {
			t.Errorf("%s: %s", path, reused.Text)
		}
	}
	if n := s.events() - before; n != 6 {
		t.Errorf("%d events were stored, want 6: one for each request, two for the transfer", n)
	}
	s.Must(400, "POST", "/accounts/ada/deposits", `{"amount":100,"currency":"EUR"}`, "Idempotency-Key", strings.Repeat("x", 201))
}

// TestIdempotencyKeyConcurrent sends each request several times at once: all get the same answer.
func TestIdempotencyKeyConcurrent(t *testing.T) {
	t.Parallel()
	s := start(t)
	for round := range 10 {
		id := fmt.Sprintf("account%d", round)
		for _, request := range [][3]string{
			{"/accounts", `{"account":"` + id + `","owner":"Ada","currency":"EUR"}`, ""},
			{"/accounts/" + id + "/deposits", `{"amount":100,"currency":"EUR"}`, `"1"`},
			{"/accounts/" + id + "/withdrawals", `{"amount":100,"currency":"EUR"}`, ""},
			{"/accounts/" + id + "/close", `{}`, ""},
		} {
			headers := []string{"Idempotency-Key", request[0] + id}
			if request[2] != "" {
				headers = append(headers, "If-Match", request[2])
			}
			var answers [4]servicetest.Answer
			var clients sync.WaitGroup
			for i := range answers {
				clients.Go(func() { answers[i] = s.Do("POST", request[0], request[1], headers...) })
			}
			clients.Wait()
			for _, a := range answers {
				if a.Status/100 != 2 || a.Text != answers[0].Text {
					t.Errorf("%s: %d %s, another: %d %s", request[0], a.Status, a.Text, answers[0].Status, answers[0].Text)
				}
			}
		}
	}
	if n := s.events(); n != 40 {
		t.Errorf("%d events, want 40", n)
	}
}

// TestBadRequests sends each endpoint requests that it must refuse. Every answer is a problem document,
// and nothing is stored.
func TestBadRequests(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.openAccounts("ada", "bob", "gone")
	s.Must(200, "POST", "/accounts/gone/withdrawals", `{"amount":1000,"currency":"EUR"}`)
	s.Must(200, "POST", "/accounts/gone/close", `{}`)
	before := s.events()
	money := func(amount, currency string) string { return `{"amount":` + amount + `,"currency":"` + currency + `"}` }
	long := strings.Repeat("x", 501)
	s.Refused("urn:bank:", servicetest.Refusals{
		{"POST", "/accounts", `{"account":"ada","owner":"Ada","currency":"EUR"}`, 409, "account-exists"},
		{"POST", "/accounts", `{"owner":"","currency":"EUR"}`, 422, "invalid-text"},
		{"POST", "/accounts", `{"owner":"` + long + `","currency":"EUR"}`, 422, "invalid-text"},
		{"POST", "/accounts", `{"owner":"A\u0000","currency":"EUR"}`, 422, "invalid-text"},
		{"POST", "/accounts", `{"owner":"Ada","currency":"euro"}`, 422, "invalid-currency"},
		{"POST", "/accounts", `{"owner":"Ada","currency":"EUR","overdraft":-1}`, 422, "invalid-amount"},
		{"POST", "/accounts", `{"owner":"Ada","currency":"EUR","date":"tomorrow"}`, 422, "invalid-date"},
		{"POST", "/accounts", `{"owner":"Ada","currency":"EUR","account":"` + long + `"}`, 422, "invalid-account-id"},
		{"POST", "/accounts", `{"owner":"Ada","currency":"EUR","account":"a\u0000"}`, 422, "invalid-account-id"},
		{"POST", "/accounts", `{"owner":"Ada","currency":"EUR","account":".."}`, 422, "invalid-account-id"},
		{"POST", "/accounts", `null`, 400, "invalid-request"},
		{"POST", "/accounts/gone/close", `null`, 400, "invalid-request"},
		{"POST", "/accounts", `{"name":"Ada"}`, 400, "invalid-request"},
		{"POST", "/accounts", `{"owner":`, 400, "invalid-request"},
		{"POST", "/accounts", `[]`, 400, "invalid-request"},
		{"POST", "/accounts", ``, 400, "invalid-request"},
		{"POST", "/accounts", `{} {}`, 400, "invalid-request"},
		{"POST", "/accounts", `{"owner":"` + strings.Repeat("x", 64<<10) + `"}`, 413, "too-large"},
		{"POST", "/accounts/ada/deposits", money("0", "EUR"), 422, "invalid-amount"},
		{"POST", "/accounts/ada/deposits", money("-5", "EUR"), 422, "invalid-amount"},
		{"POST", "/accounts/ada/deposits", money("1000000000000001", "EUR"), 422, "invalid-amount"},
		{"POST", "/accounts/ada/deposits", money("1000000000000000", "EUR"), 422, "account-full"},
		{"POST", "/accounts/ada/deposits", money("9223372036854775808", "EUR"), 400, "invalid-request"},
		{"POST", "/accounts/ada/deposits", money("12.5", "EUR"), 400, "invalid-request"},
		{"POST", "/accounts/ada/deposits", money(`"12"`, "EUR"), 400, "invalid-request"},
		{"POST", "/accounts/ada/deposits", money("1", "CZK"), 422, "invalid-currency"},
		{"POST", "/accounts/none/deposits", money("1", "EUR"), 404, "unknown-account"},
		{"POST", "/accounts/gone/deposits", money("1", "EUR"), 409, "account-closed"},
		{"POST", "/accounts/a%00b/deposits", money("1", "EUR"), 400, "invalid-request"},
		{"POST", "/accounts/a%ffb/deposits", money("1", "EUR"), 400, "invalid-request"},
		{"POST", "/accounts/ada/withdrawals", money("1501", "EUR"), 422, "insufficient-funds"},
		{"POST", "/accounts/none/withdrawals", money("1", "EUR"), 404, "unknown-account"},
		{"POST", "/accounts/ada/transfers", `{"to":"ada","amount":1,"currency":"EUR"}`, 422, "same-account"},
		{"POST", "/accounts/ada/transfers", `{"to":"none","amount":1,"currency":"EUR"}`, 404, "unknown-account"},
		{"POST", "/accounts/ada/transfers", `{"to":"gone","amount":1,"currency":"EUR"}`, 409, "account-closed"},
		{"POST", "/accounts/ada/transfers", `{"amount":1,"currency":"EUR"}`, 422, "invalid-account-id"},
		{"POST", "/accounts/ada/transfers", `{"to":"bob","amount":1501,"currency":"EUR"}`, 422, "insufficient-funds"},
		{"POST", "/accounts/ada/close", `{}`, 409, "account-not-empty"},
		{"POST", "/accounts/gone/close", `{}`, 409, "account-closed"},
		{"POST", "/accounts/none/close", `{}`, 404, "unknown-account"},
		{"GET", "/accounts/none", ``, 404, "unknown-account"},
		{"GET", "/accounts/none/statement", ``, 404, "unknown-account"},
		{"GET", "/accounts/ada/statement?from=x", ``, 400, "invalid-request"},
		{"GET", "/accounts/ada/statement?after=-1", ``, 400, "invalid-request"},
		{"GET", "/accounts/ada/statement?type=bogus", ``, 400, "invalid-request"},
		{"GET", "/accounts?limit=0", ``, 400, "invalid-request"},
		{"GET", "/accounts?limit=1001", ``, 400, "invalid-request"},
		{"GET", "/accounts?after=%00", ``, 400, "invalid-request"},
		{"GET", "/search", ``, 400, "invalid-request"},
		{"GET", "/search?q=%00", ``, 400, "invalid-request"},
		{"GET", "/nowhere", ``, 404, "no-such-endpoint"},
		{"DELETE", "/accounts/ada", ``, 405, "no-such-endpoint"},
	})
	s.Must(415, "POST", "/accounts", `owner=Ada`, "Content-Type", "application/x-www-form-urlencoded")
	s.Must(400, "GET", "/accounts", ``, httpapi.PositionHeader, "yesterday")
	if funds := s.Must(422, "POST", "/accounts/ada/withdrawals", money("1501", "EUR")); funds.Body["available"] != 1500.0 {
		t.Errorf("insufficient funds: %s, want what is available", funds.Text)
	}
	if allow := s.Do("DELETE", "/accounts/ada", "").Header.Get("Allow"); allow == "" {
		t.Error("405 without Allow")
	}
	if n := s.events(); n != before {
		t.Errorf("%d events were stored by requests that were refused", n-before)
	}
}

// TestMoneyIsNeitherLostNorMade transfers at random from many clients at once.
func TestMoneyIsNeitherLostNorMade(t *testing.T) {
	t.Parallel()
	s := start(t)
	ids := []string{"a", "b", "c", "d"}
	s.openAccounts(ids...)
	var clients sync.WaitGroup
	for c := range 6 {
		clients.Go(func() {
			random := rand.New(rand.NewPCG(uint64(c), 1))
			for range 25 {
				from, to := ids[random.IntN(4)], ids[random.IntN(4)]
				a := s.Do("POST", "/accounts/"+from+"/transfers", fmt.Sprintf(`{"to":%q,"amount":%d,"currency":"EUR"}`, to, 1+random.IntN(400)))
				if a.Status != 200 && a.Status != 422 && a.Status != 409 {
					t.Errorf("transfer: %d %s", a.Status, a.Text)
				}
			}
		})
	}
	clients.Wait()
	end, err := s.store.Tidemark(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	total, accounts := 0.0, s.Must(200, "GET", "/accounts", "", httpapi.PositionHeader, end.String()).Body["accounts"].([]any)
	for _, row := range accounts {
		id, balance := row.(map[string]any)["account"].(string), row.(map[string]any)["balance"].(float64)
		if total += balance; balance < -500 {
			t.Errorf("account %s is at %v, below its overdraft", id, balance)
		}
		if loaded := s.Must(200, "GET", "/accounts/"+id, "").Body["balance"]; loaded != balance {
			t.Errorf("account %s: %v in the read model, %v by its events", id, balance, loaded)
		}
	}
	if total != 4000 {
		t.Errorf("the accounts hold %v, want 4000", total)
	}
}

// TestReadModelBehind: a query for a position that is not reached is answered with 503, and says when to retry.
func TestReadModelBehind(t *testing.T) {
	t.Parallel()
	s := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 1)
	defer cancel()
	request := httptest.NewRequestWithContext(ctx, "GET", "/accounts", nil)
	request.Header.Set(httpapi.PositionHeader, eventstore.Position(99).String())
	recorder := httptest.NewRecorder()
	s.mux.ServeHTTP(recorder, request)
	if recorder.Code != 503 || recorder.Header().Get("Retry-After") == "" || !strings.Contains(recorder.Body.String(), "read-model-behind") {
		t.Errorf("%d %s, want 503 and when to retry", recorder.Code, recorder.Body)
	}
}

// TestClosing: when the bank closes, no query waits for a read model any longer, whether the query came before or
// after. Commands are still handled.
func TestClosing(t *testing.T) {
	t.Parallel()
	s := start(t)
	handler := s.mux
	ask := func(method, path, body string) *httptest.ResponseRecorder {
		request := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
		request.Header.Set(httpapi.PositionHeader, "999999")
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, request)
		return recorder
	}
	waiting := make(chan *httptest.ResponseRecorder)
	go func() { waiting <- ask("GET", "/accounts", "") }()
	handler.Close()
	if early := <-waiting; early.Code != 503 {
		t.Errorf("a waiting query got %d %s, want 503", early.Code, early.Body)
	}
	if late := ask("POST", "/accounts", `{"owner":"Ada","currency":"EUR"}`); late.Code != 201 {
		t.Errorf("a command got %d %s, want 201", late.Code, late.Body)
	}
}

// TestOpenTogether opens several banks on an empty database at the same time, as several processes do.
func TestOpenTogether(t *testing.T) {
	t.Parallel()
	url := tidemarktest.EmptyURL(t, nil)
	var banks sync.WaitGroup
	for range 6 {
		banks.Go(func() {
			b, err := open(t.Context(), url)
			if err != nil {
				t.Error(err)
				return
			}
			b.close()
		})
	}
	banks.Wait()
}
