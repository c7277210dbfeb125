package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"runtime/debug"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgerr"
	"github.com/tidemark-es/tidemark/projection"
	"github.com/tidemark-es/tidemark/query"
)

// Problem says what an error means to a client: the status of the answer, and the name of the problem, such as
// "unknown-account". Clients tell problems apart by the name.
type Problem struct {
	Err    error // by errors.Is
	Status int
	Name   string
}

// The problems that the framework's own errors become. The texts of these errors are not sent: they can name servers,
// statements, and streams that the client has not asked for.
var (
	reused      = &Error{http.StatusUnprocessableEntity, "idempotency-key-reused", "the Idempotency-Key was used before for another request"}
	raced       = &Error{http.StatusConflict, "version-conflict", "something that the request changes was changed at the same time: send the request again"}
	behind      = &Error{http.StatusServiceUnavailable, "read-model-behind", "the read model has not reached the position yet: ask again"}
	timeout     = &Error{http.StatusServiceUnavailable, "timeout", "it was not done in time"}
	unknown     = &Error{http.StatusServiceUnavailable, "unknown-outcome", "it is not known whether it was done: repeat the request under the same Idempotency-Key to find out"}
	closing     = &Error{http.StatusServiceUnavailable, "closing", "the service is closing, or the request was given up"}
	unavailable = &Error{http.StatusServiceUnavailable, "unavailable", "the database cannot be used at the moment: try again"}
)

// Error is a problem that a handler has found in the request itself. It is answered as it is, whatever is in
// Config.Problems. The status must be from 400 to 599.
type Error struct {
	Status int
	Name   string
	Detail string
}

// Error returns Detail.
func (e *Error) Error() string {
	if e == nil {
		return "nil *httpapi.Error"
	}
	return e.Detail
}

func (e *Error) fits() bool { return e != nil && e.Status >= 400 && e.Status <= 599 }

// BadRequest returns an [Error] with status 400 and the name "invalid-request".
func BadRequest(format string, args ...any) error {
	return &Error{http.StatusBadRequest, "invalid-request", fmt.Sprintf(format, args...)}
}

// problemFor returns the problem that an error means to the client, and further members for its document. A problem
// without a name means that the error is not known.
func (m *Mux) problemFor(r *http.Request, err error) (*Error, map[string]any) {
	var late *projection.WaitError
	if errors.As(err, &late) {
		return behind, map[string]any{"read_model": late.Projection, "position": late.Position}
	}
	if errors.Is(err, query.ErrBehind) {
		return behind, nil
	}
	var found *Error
	if errors.As(err, &found) && found.fits() {
		return found, nil
	}
	known := knownProblem(r, err)
	for _, p := range m.config.Problems {
		if errors.Is(err, p.Err) {
			var members map[string]any
			if m.config.Members != nil {
				members = m.config.Members(err)
			}
			return &Error{p.Status, p.Name, detail(err, p.Err, known)}, members
		}
	}
	if known == nil {
		known = &Error{Status: http.StatusInternalServerError}
	}
	return known, nil
}

// detail returns the text that a client gets for an application's error. It is the text of the error, unless the error
// wraps one of the framework or of Postgres.
func detail(err, matched error, known *Error) string {
	var fromServer *pgconn.PgError
	switch {
	case known != nil:
		return known.Detail
	case errors.As(err, &fromServer):
		return matched.Error()
	}
	return err.Error()
}

// knownProblem returns the problem that an error of the framework means, and nil for another error.
func knownProblem(r *http.Request, err error) *Error {
	var invalid *eventstore.InvalidError
	switch {
	case errors.Is(err, eventstore.ErrConflict):
		return conflictProblem(r, err)
	case errors.Is(err, eventstore.ErrKeyReused):
		return reused
	case errors.As(err, &invalid):
		return &Error{http.StatusBadRequest, "invalid-request", invalid.Reason}
	case errors.Is(err, eventstore.ErrInvalid):
		return &Error{http.StatusBadRequest, "invalid-request", "something in the request cannot be stored"}
	case errors.Is(err, eventstore.ErrUnknownOutcome):
		return unknown
	case errors.Is(err, eventstore.ErrClosed):
		return closing
	case isUnavailable(err):
		return unavailable
	case errors.Is(err, context.DeadlineExceeded):
		return timeout
	case errors.Is(err, context.Canceled):
		return closing
	}
	return nil
}

// conflictProblem returns 412 if the stream is not at the version that If-Match asks for. Every other conflict is 409:
// other commits to the same or another stream came first, in every attempt.
func conflictProblem(r *http.Request, err error) *Error {
	var conflict *eventstore.ConflictError
	seen, malformed := IfMatch(r)
	if !errors.As(err, &conflict) || malformed != nil || seen == eventstore.Any || conflict.Expected != seen {
		return raced
	}
	text := fmt.Sprintf("it is at version %v, and If-Match asks for %v", conflict.Actual, seen)
	switch {
	case seen == eventstore.Exists:
		text = "it does not exist, and If-Match asks for something that exists"
	case conflict.Actual == eventstore.Unknown:
		text = fmt.Sprintf("it is not at version %v, which If-Match asks for", seen)
	}
	return &Error{http.StatusPreconditionFailed, "version-conflict", text}
}

func isUnavailable(err error) bool {
	return isUnready(err) || errors.Is(err, eventstore.ErrNoAnswer) || pgerr.Unavailable(err)
}

// isUnready reports whether the store refuses to work with the database as it is: a standby, or a database that was not
// migrated, was restored without its sequences, or went back to an earlier state. Nothing was stored.
func isUnready(err error) bool {
	return slices.ContainsFunc([]error{eventstore.ErrNoTidemark, eventstore.ErrUnproven, eventstore.ErrDiverged, eventstore.ErrNotMigrated},
		func(unready error) bool { return errors.Is(err, unready) })
}

// repeatable reports whether a repeat of the request cannot do its work twice. A command without a key can have been
// done, unless the database has refused it.
func repeatable(r *http.Request, problem *Error, err error) bool {
	_, keyed := eventstore.KeyFrom(r.Context())
	keyed = keyed || r.Header.Get("Idempotency-Key") != ""
	refused := problem == unavailable && (pgerr.NothingDone(err) || isUnready(err))
	return isQuery(r) || keyed || refused
}

// document is a problem document. Further members stand beside those of RFC 9457.
type document struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
}

// fail answers a request that has failed. client is done when the client has gone.
func (m *Mux) fail(client context.Context, w *response, r *http.Request, err error) {
	defer func() {
		if p := recover(); p != nil && p != http.ErrAbortHandler { //nolint:errorlint // in what the application has given
			m.log(w, r, slog.LevelError, "problem document cannot be made", &panicked{fmt.Sprint(p), debug.Stack()})
			w.retract()
			m.write(w, &Error{Status: http.StatusInternalServerError}, nil)
		} else if p != nil {
			panic(p)
		}
	}()
	problem, members := m.problemFor(r, err)
	m.logProblem(client, w, r, problem, err)
	w.retract()
	if problem.Status == http.StatusServiceUnavailable && repeatable(r, problem, err) {
		w.Header().Set("Retry-After", "1")
	}
	body, err := m.document(problem, members)
	if err != nil {
		m.log(w, r, slog.LevelError, "members of a problem document cannot be written", err)
	}
	m.write(w, problem, body)
}

// retract removes the headers that the handler has set for its answer. If the answer has begun it ends the connection
// instead: the client must see that something is missing.
func (w *response) retract() {
	if w.begun.Load() {
		panic(http.ErrAbortHandler)
	}
	for _, done := range promises {
		w.Header().Del(done)
	}
}

// promises are headers that a handler may have set before it failed.
var promises = []string{"ETag", "Location", PositionHeader, "Last-Modified", "Cache-Control", "Expires",
	"Content-Length", "Content-Encoding", "Content-Range", "Content-Disposition"}

// logProblem logs, for the operator, what the client is not told. When the client has gone, the error is most often a
// consequence of that.
func (m *Mux) logProblem(client context.Context, w http.ResponseWriter, r *http.Request, problem *Error, err error) {
	var p *panicked
	switch {
	case errors.As(err, &p):
		m.log(w, r, slog.LevelError, "handler panicked", err)
	case problem.Name == "" && errors.Is(client.Err(), context.Canceled):
		m.log(w, r, slog.LevelInfo, "request failed after the client had gone", err)
	case problem.Name == "":
		m.log(w, r, slog.LevelError, "request failed", err)
	case client.Err() != nil: // the client does not wait any more
	case problem == timeout: // the client is not told what took too long
		m.log(w, r, slog.LevelWarn, "request took too long", err)
	case problem == unknown:
		m.log(w, r, slog.LevelWarn, "request has an unknown outcome", err)
	case problem == unavailable:
		m.log(w, r, slog.LevelWarn, "database unavailable", err)
	}
}

// document returns a problem document. If the members cannot be written, it returns the document without them, and an
// error.
func (m *Mux) document(problem *Error, members map[string]any) ([]byte, error) {
	p := document{Type: m.config.TypePrefix + problem.Name, Title: http.StatusText(problem.Status), Status: problem.Status, Detail: problem.Detail}
	if problem.Name == "" {
		p.Type = "about:blank"
	}
	body, err := json.Marshal(p)
	if err == nil && len(members) > 0 {
		return withMembers(body, members)
	}
	return body, err
}

func (m *Mux) write(w *response, problem *Error, body []byte) {
	if body == nil {
		body, _ = m.document(problem, nil) // never fails: it holds only texts and a number
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(problem.Status)
	_, _ = w.Write(append(body, '\n')) // the client has gone
}

func (m *Mux) log(w http.ResponseWriter, r *http.Request, level slog.Level, what string, err error) {
	about := []any{"method", r.Method, "path", r.URL.Path, "request_id", w.Header().Get(requestID), "error", err}
	var p *panicked
	if errors.As(err, &p) {
		about = append(about, "stack", string(p.stack))
	}
	m.config.Logger.Log(r.Context(), level, what, about...)
}

// withMembers appends members to a JSON object, except those of RFC 9457.
func withMembers(object []byte, members map[string]any) ([]byte, error) {
	members = maps.Clone(members)
	for _, taken := range []string{"type", "title", "status", "detail"} {
		delete(members, taken)
	}
	more, err := json.Marshal(members)
	if err != nil || len(members) == 0 {
		return object, err
	}
	return append(append(object[:len(object)-1], ','), more[1:]...), nil
}
