package httpapi

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/query"
)

// maxHeader bounds the headers that are stored, in bytes.
const maxHeader = 200

// identify gives the request an id, and puts the id and the trace context into the context. An id that cannot be stored
// is replaced, and the answer says so.
func (m *Mux) identify(w http.ResponseWriter, r *http.Request) *http.Request {
	ctx := r.Context()
	id, unfit := storable(r.Header.Values(requestID))
	if unfit != "" {
		w.Header().Set(requestIDReplaced, unfit)
	}
	outer, _ := storable([]string{eventstore.MetadataFrom(ctx).CorrelationID})
	id = cmp.Or(id, outer, uuid.NewString())
	w.Header().Set(requestID, id)
	trace, _ := storable(r.Header.Values("traceparent"))
	return r.WithContext(eventstore.WithMetadata(ctx, eventstore.Metadata{CorrelationID: id, TraceParent: trace}))
}

// storable returns the value of a header if it can be stored as metadata, else "" and the reason.
func storable(values []string) (value, unfit string) {
	if len(values) == 0 {
		return "", ""
	}
	value = values[0]
	switch {
	case len(values) > 1:
		return "", "it was sent several times"
	case strings.TrimSpace(value) == "":
		return "", "it was empty"
	case len(value) > maxHeader:
		return "", fmt.Sprintf("it had more than %d bytes", maxHeader)
	case !utf8.ValidString(value):
		return "", "it was not UTF-8"
	case strings.ContainsFunc(value, unicode.IsControl):
		return "", "it had a control character"
	}
	return value, ""
}

// prepare does the checks that are possible before a handler runs. It reads the body, and puts idempotency key and
// position into the context.
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
		if ctx, err = m.withKey(r, body); err != nil {
			return nil, err
		}
		if _, err := IfMatch(r); err != nil {
			return nil, err
		}
	}
	if text, ok, err := single(r, PositionHeader); err != nil {
		return nil, err
	} else if ok {
		position, err := eventstore.ParsePosition(text)
		if err != nil {
			return nil, BadRequest("%s: %.40q: want a number, 0 or more", PositionHeader, text)
		}
		ctx = query.AtLeast(ctx, position)
	}
	r = r.WithContext(ctx)
	r.Form, r.Body = form, io.NopCloser(bytes.NewReader(body))
	return r, nil
}

// single returns the value of a header that may be sent once, and whether it was sent.
func single(r *http.Request, name string) (value string, ok bool, err error) {
	switch values := r.Header.Values(name); {
	case len(values) == 0:
		return "", false, nil
	case len(values) > 1:
		return "", false, BadRequest("%s was sent %d times", name, len(values))
	default:
		return values[0], true, nil
	}
}

// withKey puts the idempotency key into the context, if there is one. The key belongs to the caller, and to everything
// in the request that says what to do: method, address, If-Match and body.
func (m *Mux) withKey(r *http.Request, body []byte) (context.Context, error) {
	const header = "Idempotency-Key"
	name, ok, err := single(r, header)
	if !ok || err != nil {
		return r.Context(), err
	}
	if len(name) > maxHeader {
		return nil, BadRequest("%s has more than %d bytes", header, maxHeader)
	}
	if name == "" || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
		return nil, BadRequest("%s: %.40q: want 1 to %d bytes of UTF-8 without control characters", header, name, maxHeader)
	}
	content := fmt.Appendf(nil, "%s %s\n%q\n%s", r.Method, r.URL.RequestURI(), r.Header.Values("If-Match"), body)
	return eventstore.WithKey(r.Context(), keyName(m.principal(r), name), content), nil
}

func (m *Mux) principal(r *http.Request) string {
	if m.config.Principal != nil {
		return m.config.Principal(r)
	}
	if sent := r.Header.Values("Authorization"); len(sent) > 0 {
		return fmt.Sprintf("%q", sent)
	}
	return ""
}

// keyName returns the name under which a client's key is stored. The principal can be a password. It is hashed together
// with the key, so that a reader of the table cannot try passwords without knowing the key.
func keyName(principal, name string) string {
	if principal == "" {
		return "http/" + name
	}
	hash := sha256.Sum256(fmt.Appendf(nil, "%d %s%s", len(principal), principal, name))
	return "http-caller/" + hex.EncodeToString(hash[:])
}

func isQuery(r *http.Request) bool { return r.Method == http.MethodGet || r.Method == http.MethodHead }

// isText reports whether Postgres can store the texts of the address.
func isText(path string, form url.Values) bool {
	texts := []string{path}
	for name, values := range form {
		texts = append(append(texts, name), values...)
	}
	return !slices.ContainsFunc(texts, func(text string) bool {
		return !utf8.ValidString(text) || strings.ContainsRune(text, 0)
	})
}
