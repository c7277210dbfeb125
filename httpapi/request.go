package httpapi

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/tidemark-es/tidemark/eventstore"
)

// Decode reads a body that holds one JSON object and no member that into does not have. Everything
// else is an [Error]: 415 for another Content-Type, 400 for the rest.
func Decode(r *http.Request, into any) error {
	if kind := r.Header.Get("Content-Type"); kind != "" {
		if base, _, err := mime.ParseMediaType(kind); err != nil || base != "application/json" {
			return &Error{http.StatusUnsupportedMediaType, "not-json", "Content-Type: want application/json"}
		}
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return BadRequest("the body cannot be read: %v", err)
	}
	if !bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("{")) {
		return BadRequest("the body is not a JSON object")
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			return BadRequest("%s: %s is not what is wanted here", cmp.Or(wrong.Field, "the body"), wrong.Value)
		}
		return BadRequest("the body is not what is wanted here: %v", err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return BadRequest("the body holds more than one JSON object")
	}
	return nil
}

// oneTag is one entity tag of RFC 9110, with its text.
var oneTag = regexp.MustCompile(`^(W/)?"([\x21\x23-\x7e]*)"$`)

// IfMatch returns the version that the header If-Match asks for, as the expected version of a
// command: [eventstore.Any] without the header, [eventstore.Exists] for "*". Anything other than one
// ETag of ours is an [Error]: 412 for a well-formed tag that is none, since nothing can match it, and 400 for what is
// malformed and for several tags, since a client has seen one.
func IfMatch(r *http.Request) (eventstore.Version, error) {
	tags := strings.TrimSpace(strings.Join(r.Header.Values("If-Match"), ","))
	switch tags {
	case "":
		return eventstore.Any, nil
	case "*":
		return eventstore.Exists, nil
	}
	parts := oneTag.FindStringSubmatch(tags)
	if parts == nil {
		return 0, BadRequest(`If-Match: %s: want one ETag, such as "3"`, tags)
	}
	n, _ := strconv.ParseInt(parts[2], 10, 64)
	if ETag(eventstore.Version(n)) != tags || n < 1 {
		return 0, &Error{http.StatusPreconditionFailed, "version-conflict", "If-Match: " + tags + " is no version of anything here"}
	}
	return eventstore.Version(n), nil
}

// NewID returns an id for what a request creates: a random one, or with an idempotency key always
// the same, so that a repeat names the same thing.
func NewID(r *http.Request) string {
	if key, ok := eventstore.KeyFrom(r.Context()); ok {
		return uuid.NewSHA1(uuid.NameSpaceURL, []byte(key.Name)).String()
	}
	return uuid.NewString()
}

// Limit returns the parameter limit of a query: how many rows a page has, from 1 to most. Without
// the parameter it is usual. The error is an [Error].
func Limit(r *http.Request, usual, most int) (int, error) {
	text := r.FormValue("limit")
	if text == "" {
		return usual, nil
	}
	limit, err := strconv.Atoi(text)
	if err != nil || limit < 1 || limit > most {
		return 0, BadRequest("limit=%s: want 1 to %d", text, most)
	}
	return limit, nil
}
