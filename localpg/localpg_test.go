//go:build linux || darwin || freebsd

package localpg_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/tidemark-es/tidemark/localpg"
)

// noURL is an environment variable that is never set.
const noURL = "LOCALPG_TEST_NO_URL"

func TestMain(m *testing.M) {
	// These tests start servers of their own, also where all other tests use a given one.
	if os.Getenv("TIDEMARK_POSTGRES") == string(localpg.URL) {
		os.Unsetenv("TIDEMARK_POSTGRES")
	}
	if mode := os.Getenv(helperVar); mode != "" {
		help(mode)
		return
	}
	goleak.VerifyTestMain(m)
}

func TestStopLeavesNothing(t *testing.T) {
	t.Parallel()
	server := start(t, &localpg.Config{URLVar: noURL, Settings: map[string]string{"max_connections": "33"}})
	want := map[string]string{
		"max_connections":           "33",
		"max_prepared_transactions": "16",
		"fsync":                     "off",
		"synchronous_commit":        "off",
		"full_page_writes":          "off",
		"server_encoding":           "UTF8",
	}
	got := map[string]string{}
	for name := range want {
		got[name] = query(t, server.URL(), "select current_setting('"+name+"')")
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
	left := traces(t, server.URL())
	for range 2 {
		if err := server.Stop(); err != nil {
			t.Errorf("Stop: %v", err)
		}
		if what := left(); what != "" {
			t.Errorf("after Stop: %s", what)
		}
	}
}

func TestDurableServerSyncs(t *testing.T) {
	t.Parallel()
	server := start(t, &localpg.Config{URLVar: noURL, Durable: true})
	for _, name := range []string{"fsync", "synchronous_commit", "full_page_writes"} {
		if got := query(t, server.URL(), "select current_setting('"+name+"')"); got != "on" {
			t.Errorf("%s = %s, want on", name, got)
		}
	}
}

func TestServersRunSideBySide(t *testing.T) {
	t.Parallel()
	urls := make([]string, 3)
	var wg sync.WaitGroup
	for i := range urls {
		wg.Go(func() {
			server, err := localpg.Start(context.Background(), &localpg.Config{URLVar: noURL})
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() { stop(t, server) })
			urls[i] = server.URL()
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	for _, url := range urls {
		query(t, url, "create table mine as select 1 as n; select 'done'")
	}
	slices.Sort(urls)
	if len(slices.Compact(urls)) != 3 {
		t.Errorf("servers share a URL: %v", urls)
	}
}

func TestServerThatCannotStartSaysWhy(t *testing.T) {
	t.Parallel()
	_, err := localpg.Start(t.Context(), &localpg.Config{URLVar: noURL, Settings: map[string]string{"no_such_setting": "1"}})
	if err == nil || !strings.Contains(err.Error(), `unrecognized configuration parameter "no_such_setting"`) {
		t.Errorf("Start = %v, want the server's own complaint", err)
	}
}

func TestCancelledStartReturns(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := localpg.Start(ctx, &localpg.Config{URLVar: noURL}); !errors.Is(err, context.Canceled) {
		t.Errorf("Start = %v, want context.Canceled", err)
	}
}

func TestGivenServerIsLeftAlone(t *testing.T) {
	given := start(t, &localpg.Config{URLVar: noURL})
	t.Setenv("LOCALPG_TEST_URL", given.URL())
	t.Setenv("TIDEMARK_POSTGRES", "") // the variable comes first
	server := start(t, &localpg.Config{URLVar: "LOCALPG_TEST_URL"})
	if server.Source() != localpg.URL || server.URL() != given.URL() {
		t.Errorf("got %s from %s, want %s from url", server.URL(), server.Source(), given.URL())
	}
	stop(t, server)
	query(t, given.URL(), "select 'still there'")
}

// TestGivenServerIsSilent: Start gives up on a server that accepts connections and sends nothing, and the error says
// why.
func TestGivenServerIsSilent(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	t.Setenv("TIDEMARK_POSTGRES", string(localpg.URL))
	t.Setenv(noURL, fmt.Sprintf("postgres://a@%s/a?sslmode=disable", listener.Addr()))
	began := time.Now()
	if _, err := localpg.Start(t.Context(), &localpg.Config{URLVar: noURL}); err == nil || !strings.Contains(err.Error(), "no answer within 10s") {
		t.Errorf("%v, want an error that says so", err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestForcedSource(t *testing.T) {
	for value, want := range map[string]string{
		"url":    "TIDEMARK_POSTGRES=url, but " + noURL + " is absent",
		"docker": "TIDEMARK_POSTGRES=docker: want url, local, container or download",
	} {
		t.Setenv("TIDEMARK_POSTGRES", value)
		_, err := localpg.Start(t.Context(), &localpg.Config{URLVar: noURL})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Start = %v, want %q in it", err, want)
		}
		if errors.Is(err, localpg.ErrNoPostgres) != (value == "url") {
			t.Errorf("errors.Is(%q, ErrNoPostgres) = %t", err, value != "url")
		}
	}
}

func TestFirstSourceThatIsThereWins(t *testing.T) {
	t.Setenv("TIDEMARK_POSTGRES", "")
	broken := errors.New("broken")
	for _, test := range []struct {
		there localpg.Source
		err   error
		tried []localpg.Source
	}{
		{localpg.URL, nil, []localpg.Source{localpg.URL}},
		{localpg.Container, nil, []localpg.Source{localpg.URL, localpg.Local, localpg.Container}},
		{localpg.Local, broken, []localpg.Source{localpg.URL, localpg.Local}}, // there, but broken
		{"", localpg.ErrNoPostgres, []localpg.Source{localpg.URL, localpg.Local, localpg.Container, localpg.Download}},
	} {
		var tried []localpg.Source
		_, err := localpg.Choose(&localpg.Config{}, func(source localpg.Source) (*localpg.Server, error) {
			tried = append(tried, source)
			if source != test.there {
				return nil, fmt.Errorf("it is %w", localpg.ErrAbsent)
			}
			return &localpg.Server{}, test.err
		})
		if !errors.Is(err, test.err) {
			t.Errorf("%s there: err = %v, want %v", test.there, err, test.err)
		}
		if diff := cmp.Diff(test.tried, tried); diff != "" {
			t.Errorf("%s there: tried (-want +got):\n%s", test.there, diff)
		}
		if test.err == localpg.ErrNoPostgres {
			for _, way := range []string{"DATABASE_URL", "PG_BIN", "Docker"} {
				if !strings.Contains(err.Error(), way) {
					t.Errorf("%q does not mention %s", err, way)
				}
			}
		}
	}
}

func start(t *testing.T, config *localpg.Config) *localpg.Server {
	t.Helper()
	server, err := localpg.Start(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, server) })
	return server
}

func stop(t *testing.T, server *localpg.Server) {
	t.Helper()
	if err := server.Stop(); err != nil {
		t.Errorf("Stop: %v", err)
	}
}

// query executes sql, which can be several statements, and returns the single text value of the last one.
func query(t *testing.T, url, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	results, err := conn.PgConn().Exec(t.Context(), sql).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	return string(results[len(results)-1].Rows[0][0])
}
