package httpapi

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"
)

// PositionHeader is sent with the answer to a command and holds the position of its events. A query that is sent with
// this header waits until its read models have reached that position.
const PositionHeader = "Tidemark-Position"

const (
	requestID         = "X-Request-Id"          // the header that holds the correlation id
	requestIDReplaced = "X-Request-Id-Replaced" // says why the id of the request was replaced
)

// Config adjusts a [Mux]. Nil and the zero value are the defaults.
type Config struct {
	// Problems says what the application's errors mean to a client. The first entry that matches an error counts. The
	// framework's errors need no entry, but an entry for one of them replaces its meaning. query.ErrBehind and
	// projection.WaitError come before Problems, because they can hold the error that a projection fails with. An
	// [Error] comes before Problems too.
	Problems []Problem
	// TypePrefix is put before the name of a problem to make its type; empty means "urn:problem:".
	TypePrefix string
	// Members returns further members of the problem document for an error that matches one of Problems, such as how
	// many items are left in stock. Nil means none.
	Members func(error) map[string]any
	// MaxBody bounds the body of a request in bytes; 0 means 64 KiB.
	MaxBody int64
	// Timeout bounds the work on one request, from when the server has read its headers; 0 means 10 s. See also
	// [Mux.HandleStream].
	Timeout time.Duration
	// Principal returns the caller of a request, such as a user's id, or "" if the request names no caller. An
	// idempotency key belongs to its caller: the same key and request of another principal is another key. Nil means
	// the Authorization header. Set Principal if that header changes between repeats, as with tokens that expire, or if
	// callers are known by something else, such as a cookie. Only a hash is stored.
	Principal func(*http.Request) string
	// Logger is told about errors that are answered with 500 and about timeouts; nil means slog.Default().
	Logger *slog.Logger
}

// Handler answers a request, or returns an error and has written nothing.
type Handler func(http.ResponseWriter, *http.Request) error

// Mux routes requests to handlers. It is an [http.Handler].
type Mux struct {
	config Config
	mux    *http.ServeMux
	open   context.Context // done after Close
	close  context.CancelFunc
}

// NewMux returns a mux without handlers. A nil config is the default. It returns an error when one of the problems has
// no error or no name, when the status of a problem is not from 400 to 599, or when a bound is negative.
func NewMux(config *Config) (*Mux, error) {
	m := &Mux{mux: http.NewServeMux()}
	if config != nil {
		m.config = *config
	}
	for _, p := range m.config.Problems {
		if p.Err == nil || p.Name == "" || p.Status < 400 || p.Status > 599 {
			return nil, fmt.Errorf("httpapi: NewMux: problem %+v: want an error, a status from 400 to 599 and a name", p)
		}
	}
	if m.config.MaxBody < 0 || m.config.Timeout < 0 {
		return nil, fmt.Errorf("httpapi: NewMux: Config.MaxBody is %d, Config.Timeout is %v: neither may be negative", m.config.MaxBody, m.config.Timeout)
	}
	m.config.TypePrefix = cmp.Or(m.config.TypePrefix, "urn:problem:")
	m.config.MaxBody = cmp.Or(m.config.MaxBody, 64<<10)
	m.config.Timeout = cmp.Or(m.config.Timeout, 10*time.Second)
	m.config.Logger = cmp.Or(m.config.Logger, slog.Default())
	m.open, m.close = context.WithCancel(context.Background())
	return m, nil
}

// Handle sets the handler for a pattern of [http.ServeMux], such as "POST /accounts/{id}/deposits".
// It panics when the handler is nil, or the pattern is malformed or taken. Requests with GET and HEAD are
// queries, all others commands.
func (m *Mux) Handle(pattern string, handler Handler) { m.handle(pattern, handler, false) }

// HandleStream is [Mux.Handle] for a handler whose answer can take longer than Config.Timeout: server-sent events, long
// downloads. The handler's context ends when the client goes, and after [Mux.Close]; this holds for commands too. The
// handler uses [http.NewResponseController] to flush, to hijack and to set deadlines. It must set a write deadline
// itself if http.Server.WriteTimeout is too short. When a handler returns an error or panics after its answer has
// begun, the connection is closed, so that the client sees that something is missing.
func (m *Mux) HandleStream(pattern string, handler Handler) { m.handle(pattern, handler, true) }

func (m *Mux) handle(pattern string, handler Handler, stream bool) {
	if handler == nil {
		panic(fmt.Sprintf("httpapi: route %q: the handler is nil", pattern))
	}
	defer func() {
		if p := recover(); p != nil {
			panic(fmt.Sprintf("httpapi: route %q: %v", pattern, p))
		}
	}()
	m.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { m.serve(&response{to: w}, r, handler, stream) })
}

func (m *Mux) serve(w *response, r *http.Request, handler Handler, stream bool) {
	client := r.Context()
	ctx, cancel := context.WithCancel(client)
	defer cancel()
	if !stream {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, m.config.Timeout)
		defer stop()
	}
	if stream || isQuery(r) {
		defer context.AfterFunc(m.open, cancel)() // stops listening
		if m.open.Err() != nil {
			cancel() // at once: AfterFunc calls it in another goroutine
		}
	}
	r = m.identify(w, r.WithContext(ctx))
	if err := m.run(w, r, handler); err != nil {
		m.fail(client, w, r, err)
	}
}

// run calls a handler. A panic becomes an error, except http.ErrAbortHandler, with which a handler aborts its answer.
func (m *Mux) run(w *response, r *http.Request, handler Handler) (err error) {
	defer func() {
		if p := recover(); p == http.ErrAbortHandler { //nolint:errorlint // the value that net/http defines
			panic(p)
		} else if p != nil {
			err = &panicked{fmt.Sprint(p), debug.Stack()}
		}
	}()
	prepared, err := m.prepare(w, r)
	if err != nil {
		return err
	}
	return handler(w, prepared)
}

// panicked is a panic of a handler.
type panicked struct {
	what  string
	stack []byte
}

func (p *panicked) Error() string { return "panic: " + p.what }

// Close ends the queries and streams under way, and later ones at once: no query waits any longer for a read model.
// Commands that are not streams are completed. Pass Close to [http.Server.RegisterOnShutdown].
func (m *Mux) Close() { m.close() }

// ServeHTTP answers a request.
func (m *Mux) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if _, pattern := m.mux.Handler(r); pattern != "" {
		m.mux.ServeHTTP(w, r)
		return
	}
	refused := &refusal{header: w.Header(), status: http.StatusNotFound}
	m.mux.ServeHTTP(refused, r)
	if refused.status < http.StatusBadRequest { // a redirect to a cleaner path
		w.WriteHeader(refused.status)
		return
	}
	answer := &response{to: w}
	m.fail(r.Context(), answer, m.identify(answer, r), &Error{refused.status, "no-such-endpoint", fmt.Sprintf("%s %.200s is not served here", r.Method, r.URL.Path)})
}

// refusal takes the mux's own answer and keeps only its headers and status.
type refusal struct {
	header http.Header
	status int
}

func (f *refusal) Header() http.Header { return f.header }

func (f *refusal) Write(p []byte) (int, error) { return len(p), nil }

func (f *refusal) WriteHeader(status int) { f.status = status }
