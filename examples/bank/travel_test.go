package main

import (
	"fmt"
	"maps"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/examples/bank/account"
	"github.com/tidemark-es/tidemark/examples/internal/servicetest"
	"github.com/tidemark-es/tidemark/httpapi"
	"github.com/tidemark-es/tidemark/tidemarktest"
)

// TestTimeTravel asks for each past state of an account by version, by position and by time.
func TestTimeTravel(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.Must(201, "POST", "/accounts", `{"account":"bob","owner":"Bob","currency":"EUR"}`)
	type moment struct {
		shown    map[string]any
		position string
	}
	var moments []moment
	for _, command := range [][2]string{
		{"", `{"account":"ada","owner":"Ada","currency":"EUR","overdraft":50}`},
		{"/ada/deposits", `{"amount":1000,"currency":"EUR"}`},
		{"/ada/transfers", `{"to":"bob","amount":300,"currency":"EUR"}`},
		{"/bob/transfers", `{"to":"ada","amount":200,"currency":"EUR"}`},
		{"/ada/withdrawals", `{"amount":900,"currency":"EUR"}`},
		{"/ada/close", `{}`},
	} {
		done := s.Do("POST", "/accounts"+command[0], command[1])
		moments = append(moments, moment{s.Must(200, "GET", "/accounts/ada", "").Body, done.Header.Get(httpapi.PositionHeader)})
	}

	history := s.Must(200, "GET", "/accounts/ada/history", "").Body["history"].([]any)
	if len(history) != len(moments) {
		t.Fatalf("%d events in the history, want %d", len(history), len(moments))
	}
	types := []string{"opened", "deposited", "transfer_sent", "transfer_received", "withdrawn", "closed"}
	for i, m := range moments {
		line := history[i].(map[string]any)
		at := line["at"].(string)
		want := map[string]any{"version": float64(i + 1), "at": at, "type": "account." + types[i], "balance": m.shown["balance"]}
		if diff := cmp.Diff(want, line); diff != "" {
			t.Errorf("line %d of the history (-want +got):\n%s", i+1, diff)
		}
		elsewhere, err := time.Parse(time.RFC3339, at)
		if err != nil {
			t.Fatal(err)
		}
		inIndia := elsewhere.In(time.FixedZone("", 5*3600+1800)).Format(time.RFC3339Nano)
		for _, parameter := range []string{fmt.Sprint("version=", i+1), "position=" + m.position, "at=" + at, "at=" + url.QueryEscape(inIndia)} {
			was := s.Must(200, "GET", "/accounts/ada?"+parameter, "")
			if diff := cmp.Diff(m.shown, was.Body); diff != "" || was.Header.Get("ETag") != fmt.Sprintf(`"%d"`, i+1) {
				t.Errorf("%s: ETag %s (-want +got):\n%s", parameter, was.Header.Get("ETag"), diff)
			}
		}
	}
	last := moments[len(moments)-1].shown
	if balance, status := last["balance"], last["status"]; balance != 0.0 || status != "closed" {
		t.Errorf("in the end: %v, want 0 and closed", last)
	}
	for _, toCome := range []string{"at=9999-12-31T23:59:59Z", "position=9223372036854775807"} {
		if diff := cmp.Diff(last, s.Must(200, "GET", "/accounts/ada?"+toCome, "").Body); diff != "" {
			t.Errorf("%s (-want +got):\n%s", toCome, diff)
		}
	}
	// A command with the version of a past state is refused.
	s.Must(412, "POST", "/accounts/ada/deposits", `{"amount":1,"currency":"EUR"}`, "If-Match", `"3"`)

	// One position shows both accounts after the same command and before the next one.
	total := s.Must(200, "GET", "/accounts/ada?position="+moments[2].position, "").Body["balance"].(float64) +
		s.Must(200, "GET", "/accounts/bob?position="+moments[2].position, "").Body["balance"].(float64)
	if total != 1000 {
		t.Errorf("the accounts held %v, want 1000", total)
	}
}

func TestHistoryPages(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.openAccounts("ada")
	s.Must(200, "POST", "/accounts/ada/deposits", `{"amount":1,"currency":"EUR"}`)
	for query, want := range map[string]struct {
		versions []any
		next     any
	}{
		"":                           {[]any{1.0, 2.0, 3.0}, nil},
		"?limit=2":                   {[]any{1.0, 2.0}, "2"},
		"?limit=2&after=2":           {[]any{3.0}, nil},
		"?limit=1&after=2":           {[]any{3.0}, "3"},
		"?limit=1&after=3":           {nil, nil},
		"?after=4611686018427387903": {nil, nil},
	} {
		page := s.Must(200, "GET", "/accounts/ada/history"+query, "").Body
		var versions []any
		for _, line := range page["history"].([]any) {
			versions = append(versions, line.(map[string]any)["version"])
		}
		if diff := cmp.Diff(want.versions, versions); diff != "" || page["next"] != want.next {
			t.Errorf("%s: next %v (-want +got):\n%s", query, page["next"], diff)
		}
	}
}

// TestBadMoments asks for states that an account never had.
func TestBadMoments(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.openAccounts("bob", "ada") // at positions 1 and 2, 3 and 4
	opened, err := time.Parse(time.RFC3339, s.Must(200, "GET", "/accounts/ada/history", "").Body["history"].([]any)[0].(map[string]any)["at"].(string))
	if err != nil {
		t.Fatal(err)
	}
	justBefore := opened.Add(-time.Microsecond).Format(time.RFC3339Nano)

	var refusals servicetest.Refusals
	refuse := func(status int, name string, paths ...string) {
		for _, path := range paths {
			refusals = append(refusals, struct {
				Method, Path, Body string
				Status             int
				Name               string
			}{"GET", "/accounts/" + path, "", status, name})
		}
	}
	refuse(400, "invalid-request",
		"ada?version=abc", "ada?version=", "ada?version=-1", "ada?version=0", "ada?version=1.5", "ada?version=9223372036854775808",
		"ada?position=abc", "ada?position=", "ada?position=-1",
		"ada?at=", "ada?at=yesterday", "ada?at=2026-03-01", "ada?at=2026-02-30T00:00:00Z", "ada?at=2026-03-01T00:00:00+01:00",
		"ada?at=0001-01-01T00:00:00Z", "ada?at=0000-01-01T00:00:00Z",
		"ada?version=1&at=2026-03-01T00:00:00Z", "ada?version=1&position=1", "ada?version=1&version=1", "ada?at=x&at=y", "none?version=1&at=",
		"none?version=abc", "a%00b?version=1",
		"ada/history?after=abc", "ada/history?after=-1", "ada/history?after=4611686018427387904", "ada/history?limit=0", "ada/history?limit=1001")
	refuse(404, "unknown-version", "ada?version=3", "ada?version=9223372036854775807")
	refuse(404, "unknown-account",
		"none?version=1", "none?at=2026-03-01T00:00:00Z", "none?position=1", "none/history", "none/history?after=7",
		"ada?at=2001-01-01T00:00:00Z", "ada?at="+justBefore, "ada?position=0", "ada?position=2")
	s.Refused("urn:bank:", refusals)

	for query, want := range map[string]string{
		"version=3":                    "the account is at version 2",
		"position=2":                   "there is no such account (position=2)",
		"at=2026-03-01T00:00:00+01:00": "%2B",
		"version=1&position=1":         "want one of them",
	} {
		if detail, _ := s.Do("GET", "/accounts/ada?"+query, "").Body["detail"].(string); !strings.Contains(detail, want) {
			t.Errorf("%s: %q, want %q in it", query, detail, want)
		}
	}
	s.Must(200, "GET", "/accounts/ada?position=3", "")
	s.Must(200, "GET", "/accounts/ada?at="+opened.Format(time.RFC3339Nano), "")
}

// TestSnapshots: an account with many events is loaded from a snapshot and the events after it.
func TestSnapshots(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.openAccounts("ada")
	const deposits = 128 // after version 2
	for i := range deposits {
		var headers []string
		if i%10 == 0 { // the next deposit reads what this one has stored
			headers = []string{"Idempotency-Key", fmt.Sprint("deposit ", i)}
		}
		s.Must(200, "POST", "/accounts/ada/deposits", `{"amount":1,"currency":"EUR"}`, headers...)
	}
	s.snapshots.Flush()
	var saved, version int
	err := s.pool.QueryRow(t.Context(), `select count(*), max(version) from tidemark.snapshots where stream = 'account-ada'`).Scan(&saved, &version)
	if err != nil || saved != 1 || version < 100 || version > 110 {
		t.Fatalf("%d snapshots, at version %d, %v; want one at version 100 or soon after", saved, version, err)
	}

	before := s.snapshots.Stats()
	now := s.Must(200, "GET", "/accounts/ada", "").Body
	if now["balance"] != 1000.0+deposits || now["version"] != 2.0+deposits {
		t.Errorf("after %d deposits: %v", deposits, now)
	}
	s.Must(200, "GET", "/accounts/ada?version=120", "")
	s.Must(200, "GET", "/accounts/ada/history?after=120", "")
	if after := s.snapshots.Stats(); after.Used-before.Used != 3 || after.Bad+after.Failed+after.Dropped != 0 {
		t.Errorf("%+v, before %+v: want three more used, and none failed", after, before)
	}

	// The snapshot changes no answer about any version. Nor does a snapshot of another shape, as another
	// release can leave one.
	for _, also := range []string{"", `update tidemark.snapshots set shape = 'other', data = '{}'`} {
		if _, err := s.pool.Exec(t.Context(), also); err != nil {
			t.Fatal(err)
		}
		for _, version := range []int{2, 50, 99, 100, 101, 110, 111, 130} {
			want := maps.Clone(now)
			want["version"], want["balance"] = float64(version), 1000+float64(version-2)
			if diff := cmp.Diff(want, s.Must(200, "GET", fmt.Sprint("/accounts/ada?version=", version), "").Body); diff != "" {
				t.Errorf("version %d, %s (-want +got):\n%s", version, also, diff)
			}
		}
	}
}

// TestClosingSaves: snapshots that are waiting when the bank closes are saved.
func TestClosingSaves(t *testing.T) {
	t.Parallel()
	url := tidemarktest.EmptyURL(t, nil)
	b, err := open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	connection, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close(t.Context())
	dispatch := func(c any) {
		if _, err := b.bus.Dispatch(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}

	ids := []string{"a", "b", "c", "d"}
	deposit := account.Booking{Money: account.Money{Amount: 1, Currency: "EUR"}, Date: "2026-01-02"}
	for _, id := range ids {
		dispatch(OpenAccount{id, account.Opened{Owner: "Ada", Currency: "EUR", Date: "2026-01-01"}})
		for range 98 {
			dispatch(Deposit{id, eventstore.Any, deposit})
		}
	}
	writing, err := connection.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// With this lock no snapshot can be saved.
	if _, err := writing.Exec(t.Context(), `lock table tidemark.snapshots in exclusive mode`); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		dispatch(Deposit{id, eventstore.Any, deposit})
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		b.close()
	}()
	for range 200 {
		if err := b.pool.Ping(t.Context()); err != nil {
			t.Fatalf("the pool was closed while snapshots were still waiting: %v", err)
		}
	}
	if err := writing.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-closed
	var saved int
	if err := connection.QueryRow(t.Context(), `select count(*) from tidemark.snapshots where version = 100`).Scan(&saved); err != nil || saved != len(ids) {
		t.Errorf("%d snapshots, %v; want %d", saved, err, len(ids))
	}
}
