// Package naming checks the names that Tidemark stores and indexes: streams, event types, idempotency keys
// and projections.
package naming

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxBytes is the length of the longest name.
const MaxBytes = 250

// Validate returns an error unless the text has 1 to MaxBytes bytes and is UTF-8 without control characters.
// The error's text begins with what, such as "event type".
func Validate(what, text string) error {
	switch {
	case text == "":
		return fmt.Errorf("%s is empty", what)
	case len(text) > MaxBytes:
		return fmt.Errorf("%s %.40q… has %d bytes, at most %d are allowed", what, text, len(text), MaxBytes)
	case !utf8.ValidString(text):
		return fmt.Errorf("%s %.40q is not UTF-8", what, text)
	case strings.ContainsFunc(text, unicode.IsControl):
		return fmt.Errorf("%s %.40q contains a control character", what, text)
	}
	return nil
}
