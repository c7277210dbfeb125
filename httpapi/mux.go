package httpapi

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/query"
)

// PositionHeader is sent with the answer to a command and says where its events are. A query
// sent with it waits until its read models have reached that position.
const PositionHeader = "Tidemark-Position"

// requestID is the header that holds the correlation id.
const requestID = "X-Request-Id"

// maxHeader bounds the headers that are stored, in bytes.
const maxHeader = 200

// Config adjusts a [Mux]. Nil and the zero value are the defaults.
type Config struct {
	// Problems says what the application's errors mean to a client. The first one that fits an
	// error counts. What the framework's errors mean is known; of those only query.ErrBehind comes
	// before Problems, since it carries why a projection is failing.
	Problems []Problem
	// TypePrefix is put before the name of a problem to make its type; empty means "urn:problem:".
	TypePrefix string
	// Members returns further members of the problem document for an error that fits one of
	// Problems, such as what is left of what there was not enough of. Nil means none.
	Members func(error) map[string]any
	// MaxBody bounds the body of a request in bytes; 0 means 64 KiB.
	MaxBody int64
	// Timeout bounds the work on one request, once it was received; 0 means 10 s.
	Timeout time.Duration
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

// NewMux returns a mux without handlers. A nil config is the default. It panics when one of the
// problems lacks an error or a name, or its status is not one of an error.
func NewMux(config *Config) *Mux {
	m := &Mux{mux: http.NewServeMux()}
	if config != nil {
		m.config = *config
	}
	for _, p := range m.config.Problems {
		if p.Err == nil || p.Name == "" || p.Status < 400 || p.Status > 599 {
			panic(fmt.Sprintf("httpapi: problem %+v: want an error, a status from 400 to 599 and a name", p))
		}
	}
	m.config.TypePrefix = cmp.Or(m.config.TypePrefix, "urn:problem:")
	m.config.MaxBody = cmp.Or(m.config.MaxBody, 64<<10)
	m.config.Timeout = cmp.Or(m.config.Timeout, 10*time.Second)
	m.config.Logger = cmp.Or(m.config.Logger, slog.Default())
	m.open, m.close = context.WithCancel(context.Background())
	return m
}

// Handle sets the handler for a pattern of [http.ServeMux], such as "POST /accounts/{id}/deposits".
// It panics when the pattern is malformed or taken. Requests with GET and HEAD are queries, all
// others commands.
func (m *Mux) Handle(pattern string, handler Handler) {
	m.mux.Handle(pattern, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), m.config.Timeout)
		defer cancel()
		if isQuery(r) {
			defer context.AfterFunc(m.open, cancel)() // stops listening
			if m.open.Err() != nil {
				cancel() // AfterFunc does it some time later
			}
		}
		r = m.identify(w, r.WithContext(ctx))
		prepared, err := m.prepare(w, r)
		if err == nil {
			err = handler(w, prepared)
		}
		if err != nil {
			m.writeProblem(w, r, err)
		}
	}))
}

// Close ends the queries under way, and each later one at once: nobody waits any longer for a read
// model. Commands are not touched. It is for [http.Server.RegisterOnShutdown].
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
	m.writeProblem(w, r, &Error{refused.status, "no-such-endpoint", r.Method + " " + r.URL.Path + " is not served here"})
}

// refusal takes the mux's own answer and keeps only its headers and status.
type refusal struct {
	header http.Header
	status int
}

func (f *refusal) Header() http.Header { return f.header }

func (f *refusal) Write(p []byte) (int, error) { return len(p), nil }

func (f *refusal) WriteHeader(status int) { f.status = status }

// identify gives the request an id, and puts it and what else it says of itself into the context.
func (m *Mux) identify(w http.ResponseWriter, r *http.Request) *http.Request {
	ctx := r.Context()
	id := cmp.Or(storable(r, requestID), eventstore.MetadataFrom(ctx).CorrelationID, uuid.NewString())
	w.Header().Set(requestID, id)
	return r.WithContext(eventstore.WithMetadata(ctx, eventstore.Metadata{CorrelationID: id, TraceParent: storable(r, "traceparent")}))
}

// prepare checks what can be checked before a handler runs, reads the body, and puts idempotency
// key and position into the context.
func (m *Mux) prepare(w http.ResponseWriter, r *http.Request) (*http.Request, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, m.config.MaxBody))
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return nil, &Error{http.StatusRequestEntityTooLarge, "too-large", fmt.Sprintf("the body has more than %d bytes", m.config.MaxBody)}
		}
		return nil, BadRequest("the body cannot be read: %v", err)
	}
	form, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, BadRequest("the address: %v", err)
	}
	if !isText(r.URL.Path, form) {
		return nil, BadRequest("the address is not text in UTF-8")
	}
	ctx := r.Context()
	if !isQuery(r) {
		if ctx, err = withKey(r, body); err != nil {
			return nil, err
		}
		if _, err := IfMatch(r); err != nil {
			return nil, err
		}
	}
	if text := r.Header.Get(PositionHeader); text != "" {
		position, err := eventstore.ParsePosition(text)
		if err != nil {
			return nil, err
		}
		ctx = query.AtLeast(ctx, position)
	}
	r = r.WithContext(ctx)
	r.Form, r.Body = form, io.NopCloser(bytes.NewReader(body))
	return r, nil
}

// withKey puts the idempotency key into the context, if there is one. It stands for all of the
// request that says what is wanted.
func withKey(r *http.Request, body []byte) (context.Context, error) {
	name := r.Header.Get("Idempotency-Key")
	if name == "" {
		return r.Context(), nil
	}
	if len(name) > maxHeader {
		return nil, BadRequest("Idempotency-Key has more than %d bytes", maxHeader)
	}
	content := fmt.Appendf(nil, "%s %s\n%q\n%s", r.Method, r.URL.RequestURI(), r.Header.Values("If-Match"), body)
	ctx := eventstore.WithKey(r.Context(), "http/"+name, content)
	key, _ := eventstore.KeyFrom(ctx)
	return ctx, key.Validate()
}

func isQuery(r *http.Request) bool { return r.Method == http.MethodGet || r.Method == http.MethodHead }

// isText reports whether Postgres can store what the address says.
func isText(path string, form url.Values) bool {
	texts := []string{path}
	for name, values := range form {
		texts = append(append(texts, name), values...)
	}
	return !slices.ContainsFunc(texts, func(text string) bool {
		return !utf8.ValidString(text) || strings.ContainsRune(text, 0)
	})
}

// storable returns a header's value if it can be stored as metadata, "" otherwise.
func storable(r *http.Request, name string) string {
	if value := r.Header.Get(name); len(value) <= maxHeader && utf8.ValidString(value) {
		return value
	}
	return ""
}
