package codectest_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/codec/codectest"
)

type (
	event  interface{ isEvent() }
	opened struct {
		Owner    string `json:"owner"`
		Currency string `json:"currency"`
	}
	openedV1 struct {
		Owner string `json:"owner"`
	}
	renamed struct {
		Owner    string `json:"holder"` // another member name, without another schema
		Currency string `json:"currency"`
	}
	closed struct{}
)

func (opened) isEvent()   {}
func (openedV1) isEvent() {}
func (renamed) isEvent()  {}
func (closed) isEvent()   {}

func same[T event](e T) event { return e }

// recorder is a test that collects failures.
type recorder struct {
	testing.TB
	errors []string
}

func (r *recorder) Helper() {}
func (r *recorder) Errorf(format string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}

// TestGolden follows a type: it is released, gets another shape, and then a developer makes mistakes.
func TestGolden(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "events")
	run := func(update bool, c *codec.Codec[event], samples ...event) []string {
		t.Setenv("GOLDEN", map[bool]string{true: "update"}[update])
		r := &recorder{TB: t}
		codectest.Golden(r, folder, c, samples...)
		return r.errors
	}
	want := func(what string, errors []string, parts ...string) {
		t.Helper()
		if len(errors) != len(parts) {
			t.Errorf("%s: %q, want %d errors", what, errors, len(parts))
			return
		}
		for _, part := range parts {
			if !strings.Contains(strings.Join(errors, "\n"), part) {
				t.Errorf("%s: %q, want one that says %q", what, errors, part)
			}
		}
	}
	first := codec.New(codec.Of("account.opened", same[openedV1]), codec.Of("account/closed", same[closed]))
	want("nothing is there", run(false, first, openedV1{"Ada"}, closed{}), "GOLDEN=update", "GOLDEN=update")
	want("a type without a sample", run(true, first, openedV1{"Ada"}), `"account/closed" at schema 1`)
	want("written", run(true, first, openedV1{"Ada"}, closed{}))
	want("unchanged", run(false, first, openedV1{"Ada"}, closed{}))
	want("in strict mode", run(false, first.Strict(), openedV1{"Ada"}, closed{}))

	spaced := first.WithJSON(codec.JSON{Marshal: func(value any) ([]byte, error) { return json.MarshalIndent(value, "", " ") }})
	want("another JSON library that writes the same values", run(false, spaced, openedV1{"Ada"}, closed{}))
	renames := first.WithJSON(codec.JSON{Marshal: func(value any) ([]byte, error) { return []byte(`{"Owner":"Ada"}`), nil }})
	want("another JSON library that writes other names", run(false, renames, openedV1{"Ada"}), "raise the schema", "something else", "something else")

	v1 := codec.Of("account.opened", func(e openedV1) event { return opened{e.Owner, "CZK"} })
	v2 := codec.Of("account.opened", same[opened]).WithSchema(2)
	gone := codec.Retired[event]("account/closed")
	second := codec.New(v1, v2, gone)
	want("evolved", run(false, second, opened{"Ada", "EUR"}), "no such file", "something else", "something else")
	want("updated", run(true, second, opened{"Ada", "EUR"}))
	want("unchanged", run(false, second, opened{"Ada", "EUR"}))
	text, err := os.ReadFile(filepath.Join(folder, "account.opened.1.json"))
	if err != nil || !strings.Contains(string(text), `"owner": "Ada"`) || !strings.Contains(string(text), `"currency": "CZK"`) {
		t.Errorf("the file of schema 1: %s, %v; want what was stored and what it means now", text, err)
	}

	want("the upcaster is gone", run(false, codec.New(v2, gone), opened{"Ada", "EUR"}), "does not decode any more")
	want("the retired type is gone", run(false, codec.New(v1, v2), opened{"Ada", "EUR"}), "account_closed.1.json: an event that an earlier release")
	other := codec.New(gone,
		codec.Of("account.opened", func(e openedV1) event { return renamed{e.Owner, "CZK"} }),
		codec.Of("account.opened", same[renamed]).WithSchema(2))
	want("another shape", run(false, other, renamed{"Ada", "EUR"}), "raise the schema", "something else", "something else")
	before, _ := os.ReadFile(filepath.Join(folder, "account.opened.2.json"))
	want("another shape, updated", run(true, other, renamed{"Ada", "EUR"}), "raise the schema")
	after, _ := os.ReadFile(filepath.Join(folder, "account.opened.2.json"))
	if !strings.Contains(string(after), `"owner": "Ada"`) {
		t.Errorf("an update has changed what was stored:\n%s\n%s", before, after)
	}
	want("a sample of an unknown type", run(true, second, closed{}), "is not in the codec")
}
