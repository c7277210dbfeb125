package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	{query.ErrBehind, http.StatusServiceUnavailable, "read-model-behind"},
	{context.DeadlineExceeded, http.StatusServiceUnavailable, "timeout"},
	{context.Canceled, http.StatusServiceUnavailable, "canceled"},
}

// Error is a problem that a handler has found in the request itself. It is answered as it is.
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

// problemFor finds out what an error means for the client. false means that it is not known.
func (m *Mux) problemFor(r *http.Request, err error) (*Error, map[string]any, bool) {
	var found *Error
	if errors.As(err, &found) {
		return found, nil, true
	}
	for _, p := range m.config.Problems {
		if errors.Is(err, p.Err) {
			var members map[string]any
			if m.config.Members != nil {
				members = m.config.Members(err)
			}
			return &Error{p.Status, p.Name, err.Error()}, members, true
		}
	}
	if errors.Is(err, eventstore.ErrConflict) {
		// Asked for a version: the precondition failed. Otherwise others were faster, too often.
		status := http.StatusConflict
		if match := r.Header.Get("If-Match"); match != "" && match != "*" {
			status = http.StatusPreconditionFailed
		}
		return &Error{status, "version-conflict", err.Error()}, nil, true
	}
	for _, p := range known {
		if errors.Is(err, p.Err) {
			return &Error{p.Status, p.Name, err.Error()}, nil, true
		}
	}
	return &Error{Status: http.StatusInternalServerError}, nil, false
}

// document is a problem document. Further members stand beside those of RFC 9457.
type document struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
}

func (m *Mux) writeProblem(w http.ResponseWriter, r *http.Request, err error) {
	problem, members, known := m.problemFor(r, err)
	p := document{Type: m.config.TypePrefix + problem.Name, Title: http.StatusText(problem.Status), Status: problem.Status, Detail: problem.Detail}
	switch {
	case !known:
		p.Type = "about:blank"
		m.config.Logger.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	case p.Status == http.StatusServiceUnavailable && (isQuery(r) || r.Header.Get("Idempotency-Key") != ""):
		// A command without a key may have been done: to repeat it would be a second one.
		w.Header().Set("Retry-After", "1")
	}
	body, err := json.Marshal(p)
	if err == nil && len(members) > 0 {
		body, err = withMembers(body, members)
	}
	if err != nil {
		m.config.Logger.ErrorContext(r.Context(), "a problem document cannot be written", "path", r.URL.Path, "error", err)
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_, _ = w.Write(append(body, '\n')) // the client has gone
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
