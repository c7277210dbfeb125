package httpapi

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/tidemark-es/tidemark/eventstore"
)

// oneTag is one entity tag of RFC 9110, with its text.
var oneTag = regexp.MustCompile(`^(W/)?"([\x21\x23-\x7e]*)"$`)

// IfMatch returns the version that the header If-Match asks for, as the expected version of a command: [eventstore.Any]
// without the header, [eventstore.Exists] for "*". A header that is not one ETag of ours is an [Error]. The error is
// 412 for a well-formed tag that is not ours, such as a weak tag, because no version can match it. It is 400 for a
// header that is malformed or empty, and for several tags, because a client has seen one version.
func IfMatch(r *http.Request) (eventstore.Version, error) {
	values := r.Header.Values("If-Match")
	if len(values) == 0 {
		return eventstore.Any, nil
	}
	tags := strings.TrimSpace(strings.Join(values, ","))
	if tags == "*" {
		return eventstore.Exists, nil
	}
	parts := oneTag.FindStringSubmatch(tags)
	if parts == nil {
		return 0, BadRequest(`If-Match: %.40s: want one ETag, such as "3"`, tags)
	}
	n, _ := strconv.ParseInt(parts[2], 10, 64)
	if ETag(eventstore.Version(n)) != tags || n < 1 {
		return 0, &Error{http.StatusPreconditionFailed, "version-conflict", fmt.Sprintf("If-Match: %.40s is no version of anything here", tags)}
	}
	return eventstore.Version(n), nil
}

// NewID returns an id for the thing that a request creates. The id is random. With an idempotency key it is always the
// same, so that a repeat of the request names the same thing.
func NewID(r *http.Request) string {
	if key, ok := eventstore.KeyFrom(r.Context()); ok {
		return uuid.NewSHA1(uuid.NameSpaceURL, []byte(key.Name)).String()
	}
	return uuid.NewString()
}

// Limit returns the parameter limit of a query: how many rows a page has, from 1 to most. Without the parameter it
// returns usual. The error is an [Error].
func Limit(r *http.Request, usual, most int) (int, error) {
	text := r.FormValue("limit")
	if text == "" {
		return usual, nil
	}
	limit, err := strconv.Atoi(text)
	if err != nil || limit < 1 || limit > most {
		return 0, BadRequest("limit=%.40s: want 1 to %d", text, most)
	}
	return limit, nil
}
