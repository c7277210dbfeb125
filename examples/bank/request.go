package main

import (
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/examples/bank/account"
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

func requestID(r *http.Request) string {
	if id := r.Header.Get("X-Request-Id"); id != "" && len(id) <= 200 && utf8.ValidString(id) {
		return id
	}
	return uuid.NewString()
}

// target reads what the commands on one account have in common: its id, the version in If-Match
// and the body.
func target(r *http.Request, body any) (id string, seen eventstore.Version, err error) {
	id, seen = r.PathValue("id"), eventstore.Any
	switch match := r.Header.Get("If-Match"); match {
	case "":
	case "*":
		seen = eventstore.Any // an account that does not exist is refused anyway
	default:
		n, err := strconv.ParseInt(strings.Trim(match, `"`), 10, 64)
		if err != nil || n < 1 || etag(eventstore.Version(n)) != match {
			return "", 0, badRequest(`If-Match: %s: want the ETag of an account, such as "3"`, match)
		}
		seen = eventstore.Version(n)
	}
	return id, seen, decode(r, body)
}

// decode reads a body that holds one JSON object and nothing that we do not know.
func decode(r *http.Request, into any) error {
	if kind := r.Header.Get("Content-Type"); kind != "" {
		if base, _, err := mime.ParseMediaType(kind); err != nil || base != "application/json" {
			return &requestError{http.StatusUnsupportedMediaType, "not-json", "Content-Type: want application/json"}
		}
	}
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
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

func orToday(d account.Date) account.Date {
	if d == "" {
		return account.Today()
	}
	return d
}

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
