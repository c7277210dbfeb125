package projection

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/tidemark-es/tidemark/eventstore"
)

// particulars are the parts of an error's text that differ from event to event. A name in quotes after a word such as
// "column" is kept.
var particulars = regexp.MustCompile(`(?i)` +
	`(SQLSTATE \w{5}|\b(?:u?int|float|utf-?|json|sha|base|ipv|http/)\d+\b` + // kept
	`|\b(?:column|columns|constraint|relation|table|type|function|index|schema|view|operator|role|sequence|domain|field|package|trigger|policy) "[^"]*")` +
	`|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|` + "`[^`]*`" + // values
	`|\b0x[0-9a-f]+\b` + // addresses
	`|\b[\w.+-]+@[\w.-]+` +
	`|-?[\p{L}\p{N}_.+:/-]*\p{N}[\p{L}\p{N}_.+:/-]*` + // numbers, times, and ids
	`|(\b(?:stream|position) )[^\s:,;)]+`)

var address = regexp.MustCompile(`(?i)\b0x[0-9a-f]{6,}\b`)

// reasonOf returns the part of an error's text that failures with the same cause share: the first line, without
// numbers, ids, times, addresses and values in quotes.
func reasonOf(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return particulars.ReplaceAllStringFunc(line, func(found string) string {
		groups := particulars.FindStringSubmatch(found)
		switch {
		case groups != nil && groups[1] == found:
			return found
		case groups != nil && groups[2] != "":
			return groups[2] + "…"
		}
		tail := ""
		for strings.HasSuffix(found, ":") || strings.HasSuffix(found, ".") { // punctuation of the sentence
			found, tail = found[:len(found)-1], found[len(found)-1:]+tail
		}
		return "…" + tail
	})
}

// streak holds the keys whose events were given up, one after another, with no event handled in between.
type streak struct {
	reason string
	keys   map[string]eventstore.Position
}

// add notes that an event was given up, and returns how many keys have failed for the same reason.
func (s *streak) add(key string, at eventstore.Position, err error) int {
	if reason := reasonOf(err.Error()); s.keys == nil || reason != s.reason {
		s.reason, s.keys = reason, make(map[string]eventstore.Position)
	}
	s.keys[key] = at
	return len(s.keys)
}

// handled notes that events up to a position were handled.
func (s *streak) handled(to eventstore.Position) {
	for key, at := range s.keys {
		if at <= to {
			delete(s.keys, key)
		}
	}
}

// passed notes which events before a failed one were handled, although they are not committed yet.
func (w *worker) passed(before []item) {
	if w.pending.items > 0 {
		w.streak.handled(w.read)
	}
	parking := make(map[string]bool)
	for n := range before {
		at, key := before[n].raw.Position, before[n].keyText()
		if _, bad := w.poison[itemID{at, key}]; bad {
			parking[key] = true
		} else if !parking[key] && !w.parked[key] {
			w.streak.handled(at)
		}
	}
}

// drained returns an error that stops the projection, if events of [Options.StopAfter] keys have failed for the same
// reason. Otherwise it returns nil, and the event is given up.
func (w *worker) drained(key string, at eventstore.Position, err error) error {
	n := w.streak.add(key, at, err)
	if n < w.projection.options.StopAfter {
		return nil
	}
	return Fatal(fmt.Errorf("events of %d different keys have failed one after another with the same reason, and none was handled in between: "+
		"correct what the reason names, then call Operator.Resume, and RunnerOperator.Retry for the dead letters: %w", n, err))
}
