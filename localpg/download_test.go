//go:build linux || darwin || freebsd

package localpg_test

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/tidemark-es/tidemark/localpg"
)

// repository serves an archive of scripts in place of Postgres's binaries.
type repository struct {
	jar, sum []byte
	status   int  // instead of the archive, unless 0
	cut      bool // the connection ends in the middle of the archive
	fetched  atomic.Int32
}

func newRepository(t *testing.T) *repository {
	t.Helper()
	archive, err := os.ReadFile("testdata/binaries.txz")
	if err != nil {
		t.Fatal(err)
	}
	var jar bytes.Buffer
	files := zip.NewWriter(&jar)
	file, err := files.Create("postgres.txz")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.Write(archive); err != nil {
		t.Fatal(err)
	}
	if err := files.Close(); err != nil {
		t.Fatal(err)
	}
	return &repository{jar: jar.Bytes(), sum: fmt.Appendf(nil, "%x", sha256.Sum256(jar.Bytes()))}
}

func (r *repository) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	switch {
	case r.status != 0:
		w.WriteHeader(r.status)
	case strings.HasSuffix(request.URL.Path, ".sha256"):
		_, _ = w.Write(r.sum)
	default:
		r.fetched.Add(1)
		w.Header().Set("Content-Length", fmt.Sprint(len(r.jar)))
		if r.cut {
			_, _ = w.Write(r.jar[:len(r.jar)/2])
			return
		}
		_, _ = w.Write(r.jar)
	}
}

func serve(t *testing.T, r *repository) string {
	t.Helper()
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	return server.URL
}

// TestDownload: the binaries are downloaded once, however many callers ask for them at the same time. The server's user
// can read them, whatever the umask.
func TestDownload(t *testing.T) {
	t.Parallel()
	source, cache := newRepository(t), filepath.Join(openFolder(t), "cache")
	address := serve(t, source)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := localpg.Ensure(t.Context(), cache, address); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := source.fetched.Load(); n != 1 {
		t.Errorf("fetched %d times, want 1", n)
	}
	for name, want := range map[string]os.FileMode{
		"bin": 0o755 | os.ModeDir, "bin/initdb": 0o755, "lib/libpq.so.5": 0o644, "lib/libpq.so": 0o644,
	} {
		info, err := os.Stat(filepath.Join(cache, "postgres-1.2.3", name))
		if err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v, want %v", name, info, err, want)
		}
	}
}

// TestDownloadThatFails: the error says what was asked for and what happened. Nothing is left that could be mistaken
// for the binaries, and the next download succeeds.
func TestDownloadThatFails(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		spoil func(*repository)
		want  string
	}{
		"not there":        {func(r *repository) { r.status = http.StatusNotFound }, "1.2.3.jar: 404 Not Found"},
		"broken off":       {func(r *repository) { r.cut = true }, "bytes: unexpected EOF"},
		"damaged":          {func(r *repository) { r.jar = bytes.Clone(r.jar); r.jar[60] ^= 1 }, "arrived damaged"},
		"without checksum": {func(r *repository) { r.sum = nil }, "arrived damaged"},
		"another thing":    {func(r *repository) { r.jar = []byte("<html>"); r.sum = fmt.Appendf(nil, "%x", sha256.Sum256(r.jar)) }, "not a valid zip"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cache, bad := filepath.Join(openFolder(t), "cache"), newRepository(t)
			test.spoil(bad)
			err := localpg.Ensure(t.Context(), cache, serve(t, bad))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
			left, err := filepath.Glob(filepath.Join(cache, "*"))
			if want := filepath.Join(cache, "postgres-1.2.3.lock"); err != nil || len(left) != 1 || left[0] != want {
				t.Errorf("left behind: %v, %v, want the lock alone", left, err)
			}
			if err := localpg.Ensure(t.Context(), cache, serve(t, newRepository(t))); err != nil {
				t.Errorf("the next download: %v", err)
			}
		})
	}
}

// TestDownloadIsRepaired: binaries that do not run are replaced, and so are the remains of a killed download.
func TestDownloadIsRepaired(t *testing.T) {
	t.Parallel()
	source, cache := newRepository(t), openFolder(t)
	address := serve(t, source)
	folder := filepath.Join(cache, "postgres-1.2.3")
	if err := os.MkdirAll(filepath.Join(folder+".new", "bin", "initdb"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, damage := range []func() error{
		func() error { return nil },
		func() error { return os.Truncate(filepath.Join(folder, "bin", "postgres"), 0) },
		func() error { return os.Remove(filepath.Join(folder, "bin", "initdb")) },
		func() error { return os.Chmod(folder, 0) },
	} {
		before := source.fetched.Load()
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		if err := localpg.Ensure(t.Context(), cache, address); err != nil {
			t.Error(err)
		}
		if got := source.fetched.Load(); got != before+1 {
			t.Errorf("fetched %d times, want one more than %d", got, before)
		}
	}
}

// TestNoNetwork: if there is no source at all, the error says so in plain words, and says what to do.
func TestNoNetwork(t *testing.T) {
	t.Parallel()
	address := httptest.NewServer(nil)
	address.Close() // no server listens there any more
	err := localpg.Ensure(t.Context(), filepath.Join(openFolder(t), "cache"), address.URL)
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("%v, want the refused connection", err)
	}
	_, err = localpg.Choose(&localpg.Config{}, func(localpg.Source) (*localpg.Server, error) {
		return nil, localpg.Absence(fmt.Errorf("the download failed: %w", err))
	})
	if os.Getenv("TIDEMARK_POSTGRES") != "" {
		t.Skip("one source is forced")
	}
	for _, want := range []string{"no Postgres found: none is installed, Docker does not answer, and the download failed: ",
		"connection refused. Set DATABASE_URL to", "install Postgres", "start Docker", "connect this machine to a network"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
}

// TestDownloadIsCancelled: a caller that gives up need not wait for the download of another one.
func TestDownloadIsCancelled(t *testing.T) {
	t.Parallel()
	asked, cancelled := make(chan struct{}), make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, request *http.Request) {
		close(asked)
		<-request.Context().Done()
	}))
	t.Cleanup(silent.Close)
	cache := filepath.Join(openFolder(t), "cache")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer close(cancelled)
		if err := localpg.Ensure(ctx, cache, silent.URL); !errors.Is(err, context.Canceled) {
			t.Errorf("the download: %v, want context.Canceled", err)
		}
	}()
	<-asked
	waiting, giveUp := context.WithCancel(t.Context())
	giveUp()
	if err := localpg.Ensure(waiting, cache, silent.URL); !errors.Is(err, context.Canceled) {
		t.Errorf("the waiting caller: %v, want context.Canceled", err)
	}
	cancel()
	<-cancelled
}

func TestDownloadOfAnUnknownVersion(t *testing.T) {
	t.Setenv("TIDEMARK_POSTGRES", "download")
	t.Setenv("TIDEMARK_POSTGRES_VERSION", "9.6")
	_, err := localpg.Start(t.Context(), &localpg.Config{URLVar: noURL})
	const want = "TIDEMARK_POSTGRES_VERSION=9.6: want one of 14, 15, 16, 17, 18"
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("Start = %v, want %q", err, want)
	}
}
