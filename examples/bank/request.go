package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tidemark-es/tidemark/eventstore"
)

// isText reports whether Postgres can store what the address says.
func isText(path string, form url.Values) bool {
	texts := []string{path}
	for _, values := range form {
		texts = append(texts, values...)
	}
	return !slices.ContainsFunc(texts, func(text string) bool {
		return !utf8.ValidString(text) || strings.ContainsRune(text, 0)
	})
}

// header returns a header's value if it can be stored as metadata, "" otherwise.
func header(r *http.Request, name string) string {
	if value := r.Header.Get(name); len(value) <= 200 && utf8.ValidString(value) {
		return value
	}
	return ""
}

// target reads what the commands on one account have in common: its id, the version in If-Match
// and the body. Without If-Match, or with *, any version will do.
func target(r *http.Request, body any) (id string, seen eventstore.Version, err error) {
	id = r.PathValue("id")
	tags := strings.Join(r.Header.Values("If-Match"), ",")
	if seen, err = seenVersion(tags); err != nil {
		return "", 0, err
	}
	return id, seen, decode(r, body)
}

// oneTag is one entity tag of RFC 9110, with its text.
var oneTag = regexp.MustCompile(`^(W/)?"([\x21\x23-\x7e]*)"$`)

// seenVersion returns the version that If-Match asks for. A well-formed tag that is none of ours
// matches no version; of several we take one, since a client has seen one.
func seenVersion(tags string) (eventstore.Version, error) {
	if tags == "" || tags == "*" {
		return eventstore.Any, nil
	}
	parts := oneTag.FindStringSubmatch(strings.TrimSpace(tags))
	if parts == nil {
		return 0, badRequest(`If-Match: %s: want the ETag of an account, such as "3"`, tags)
	}
	n, err := strconv.ParseInt(parts[2], 10, 64)
	if err != nil || etag(eventstore.Version(n)) != strings.TrimSpace(tags) || n < 1 {
		return eventstore.NoStream, nil // which no account has that exists
	}
	return eventstore.Version(n), nil
}

// decode reads a body that holds one JSON object and nothing that we do not know.
func decode(r *http.Request, into any) error {
	if kind := r.Header.Get("Content-Type"); kind != "" {
		if base, _, err := mime.ParseMediaType(kind); err != nil || base != "application/json" {
			return &requestError{http.StatusUnsupportedMediaType, "not-json", "Content-Type: want application/json"}
		}
	}
	body := bufio.NewReader(r.Body)
	if first, _ := body.Peek(1); string(first) != "{" {
		return badRequest("the body is not a JSON object")
	}
	decoder := json.NewDecoder(body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			return badRequest("%s: %s is not what is wanted here", wrong.Field, wrong.Value)
		}
		return badRequest("the body is not what is wanted here: %v", err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return badRequest("the body holds more than one JSON object")
	}
	return nil
}

func badRequest(format string, args ...any) error {
	return &requestError{http.StatusBadRequest, "invalid-request", fmt.Sprintf(format, args...)}
}

func etag(v eventstore.Version) string { return `"` + v.String() + `"` }

func limitOf(r *http.Request) (int, error) {
	text := r.FormValue("limit")
	if text == "" {
		return pageSize, nil
	}
	limit, err := strconv.Atoi(text)
	if err != nil || limit < 1 || limit > maxPage {
		return 0, badRequest("limit=%s: want 1 to %d", text, maxPage)
	}
	return limit, nil
}
