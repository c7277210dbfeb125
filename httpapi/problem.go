package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/query"
)

// Problem says what an error means to a client: the status of the answer, and the name of the
// problem, such as "unknown-account", which clients tell problems apart by.
type Problem struct {
	Err    error // by errors.Is
	Status int
	Name   string
}

// What the framework's own errors mean. ErrConflict depends on the request, see problemFor.
var known = []Problem{
	{eventstore.ErrKeyReused, http.StatusUnprocessableEntity, "idempotency-key-reused"},
	{eventstore.ErrInvalid, http.StatusBadRequest, "invalid-request"},
}

// Of these the client is told no more: their texts may name servers and statements.
var (
	behind  = &Error{http.StatusServiceUnavailable, "read-model-behind", "the read model has not reached the position yet: ask again"}
	timeout = &Error{http.StatusServiceUnavailable, "timeout", "it was not done in time"}
	unknown = &Error{http.StatusServiceUnavailable, "unknown-outcome", "it is not known whether it was done: repeat the request under the same Idempotency-Key to find out"}
	closing = &Error{http.StatusServiceUnavailable, "closing", "the service is closing, or the request was given up"}
)

// Error is a problem that a handler has found in the request itself. It is answered as it is,
// whatever is in Config.Problems. The status must be one of an error.
type Error struct {
	Status int
	Name   string
	Detail string
}

func (e *Error) Error() string { return e.Detail }

// BadRequest returns an [Error] with status 400 and the name "invalid-request".
func BadRequest(format string, args ...any) error {
	return &Error{http.StatusBadRequest, "invalid-request", fmt.Sprintf(format, args...)}
}

// problemFor finds out what an error means for the client, and what else to tell. Without a name
// it is not known.
func (m *Mux) problemFor(r *http.Request, err error) (*Error, map[string]any) {
	if errors.Is(err, query.ErrBehind) {
		return behind, nil
	}
	var found *Error
	if errors.As(err, &found) {
		return found, nil
	}
	for _, p := range m.config.Problems {
		if errors.Is(err, p.Err) {
			var members map[string]any
			if m.config.Members != nil {
				members = m.config.Members(err)
			}
			return &Error{p.Status, p.Name, err.Error()}, members
		}
	}
	if errors.Is(err, eventstore.ErrConflict) {
		// At another version than was asked for the precondition failed. Otherwise others were
		// faster, too often, here or in another stream.
		status := http.StatusConflict
		var conflict *eventstore.ConflictError
		if seen, _ := IfMatch(r); errors.As(err, &conflict) && seen != eventstore.Any && conflict.Expected == seen {
			status = http.StatusPreconditionFailed
		}
		return &Error{status, "version-conflict", err.Error()}, nil
	}
	for _, p := range known {
		if errors.Is(err, p.Err) {
			return &Error{p.Status, p.Name, err.Error()}, nil
		}
	}
	switch {
	case errors.Is(err, eventstore.ErrUnknownOutcome):
		return unknown, nil
	case errors.Is(err, eventstore.ErrClosed):
		return closing, nil
	case errors.Is(err, context.DeadlineExceeded):
		return timeout, nil
	case errors.Is(err, context.Canceled):
		return closing, nil
	}
	return &Error{Status: http.StatusInternalServerError}, nil
}

// document is a problem document. Further members stand beside those of RFC 9457.
type document struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
}

func (m *Mux) writeProblem(w http.ResponseWriter, r *http.Request, err error) {
	problem, members := m.problemFor(r, err)
	p := document{Type: m.config.TypePrefix + problem.Name, Title: http.StatusText(problem.Status), Status: problem.Status, Detail: problem.Detail}
	for _, done := range []string{"ETag", "Location", PositionHeader} {
		w.Header().Del(done) // it was not
	}
	if problem.Name == "" {
		p.Type = "about:blank"
		m.log(w, r, slog.LevelError, "request failed", err)
	}
	if problem == timeout || problem == unknown { // nobody else hears what it was waiting for
		m.log(w, r, slog.LevelWarn, "request took too long", err)
	}
	// A command without a key may have been done: to repeat it would be a second one.
	if p.Status == http.StatusServiceUnavailable && (isQuery(r) || r.Header.Get("Idempotency-Key") != "") {
		w.Header().Set("Retry-After", "1")
	}
	body, err := json.Marshal(p)
	if err == nil && len(members) > 0 {
		body, err = withMembers(body, members)
	}
	if err != nil {
		m.log(w, r, slog.LevelError, "members of a problem document cannot be written", err)
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_, _ = w.Write(append(body, '\n')) // the client has gone
}

func (m *Mux) log(w http.ResponseWriter, r *http.Request, level slog.Level, what string, err error) {
	m.config.Logger.Log(r.Context(), level, what,
		"method", r.Method, "path", r.URL.Path, "request_id", w.Header().Get(requestID), "error", err)
}

// withMembers adds members behind those that a JSON object has.
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
