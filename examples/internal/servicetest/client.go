// Package servicetest tests an example from outside: as a client over HTTP, and as a program.
package servicetest

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"testing"
)

// Client talks to a service. It fails its test when an answer is not JSON.
type Client struct {
	*testing.T
	URL  string
	HTTP *http.Client

	trace *httptrace.ClientTrace // nil for none
}

// Serve serves a handler until the test ends, and returns a client of it.
func Serve(t *testing.T, handler http.Handler) *Client {
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return &Client{T: t, URL: server.URL, HTTP: server.Client()}
}

// Background runs something, such as projections, until the test ends.
func Background(t *testing.T, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Answer is the answer to a request.
type Answer struct {
	Status int
	Header http.Header
	Body   map[string]any
	Text   string
}

// Do sends a request; headers are pairs of name and value. Do can be called from any goroutine: it fails the
// test without ending it.
func (c *Client) Do(method, path, body string, headers ...string) Answer {
	c.Helper()
	ctx := c.Context()
	if c.trace != nil {
		ctx = httptrace.WithClientTrace(ctx, c.trace)
	}
	request, err := http.NewRequestWithContext(ctx, method, c.URL+path, strings.NewReader(body))
	if err != nil {
		c.Error(err)
		return Answer{}
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := c.HTTP.Do(request)
	if err != nil {
		c.Error(err)
		return Answer{}
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		c.Error(err)
		return Answer{}
	}
	a := Answer{Status: response.StatusCode, Header: response.Header, Text: string(text)}
	if err := json.Unmarshal(text, &a.Body); err != nil {
		c.Errorf("%s %s: %d: not JSON: %s", method, path, a.Status, text)
	}
	return a
}

// Must is Do for a request whose answer must have a status. Any other status ends the test.
func (c *Client) Must(status int, method, path, body string, headers ...string) Answer {
	c.Helper()
	a := c.Do(method, path, body, headers...)
	if a.Status != status {
		c.Fatalf("%s %s %s: %d %s, want %d", method, path, body, a.Status, a.Text, status)
	}
	return a
}

// Refusals are requests that must be refused.
type Refusals = []struct {
	Method, Path, Body string
	Status             int
	Name               string // of the problem
}

// Refused sends requests that must be refused. Each answer must be a problem document of the type prefix + Name.
func (c *Client) Refused(prefix string, refusals Refusals) {
	c.Helper()
	for _, r := range refusals {
		a := c.Do(r.Method, r.Path, r.Body)
		body := r.Body[:min(len(r.Body), 80)]
		if a.Status != r.Status || a.Body["type"] != prefix+r.Name || a.Body["status"] != float64(r.Status) || a.Body["title"] == "" ||
			a.Header.Get("Content-Type") != "application/problem+json" {
			c.Errorf("%s %s %s: %d %s, want %d %s", r.Method, r.Path, body, a.Status, a.Text, r.Status, r.Name)
		}
	}
}
