package eventstore

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/tidemark-es/tidemark/internal/naming"
)

// StreamID names a stream: a category, such as "account", and a key within it. Its text form is
// "category-key"; the key may hold further dashes.
type StreamID struct {
	Category string // not empty, without '-'
	Key      string // not empty
}

// ParseStreamID reads the text form. The error is an [InvalidError].
func ParseStreamID(text string) (StreamID, error) {
	category, key, _ := strings.Cut(text, "-")
	id := StreamID{Category: category, Key: key}
	if err := id.Validate(); err != nil {
		return StreamID{}, err
	}
	return id, nil
}

// String returns the text form, "category-key".
func (id StreamID) String() string { return id.Category + "-" + id.Key }

// Validate returns an [InvalidError] unless category and key are not empty, the category has no
// dash, the text form has at most 250 bytes, and all of it is UTF-8 without control characters.
func (id StreamID) Validate() error {
	switch {
	case id.Category == "":
		return invalid("stream category is empty: want category-key")
	case id.Key == "":
		return invalid("stream key is empty: want category-key")
	case strings.Contains(id.Category, "-"):
		return invalid("stream category %.40q contains '-'", id.Category)
	case len(id.Category)+1+len(id.Key) > naming.MaxBytes:
		return invalid("stream key %.40q… is too long: category-key has %d bytes, at most %d are allowed", id.Key, len(id.Category)+1+len(id.Key), naming.MaxBytes)
	}
	// The text has only the key: it may come from a client, and the client does not know the category.
	if err := validName("stream category", id.Category); err != nil {
		return err
	}
	return validName("stream key", id.Key)
}

func validName(what, text string) error {
	if err := naming.Validate(what, text); err != nil {
		return &InvalidError{Reason: err.Error()}
	}
	return nil
}

// Version numbers the events of a stream: the first event has version 1. As the expected version of an append it says
// at which version the stream must be.
type Version int64

// Expected versions with a meaning of their own.
const (
	NoStream Version = 0  // the stream has no event yet
	Any      Version = -1 // whatever version the stream is at
	Exists   Version = -2 // the stream has at least one event
)

// Unknown is the version of a stream in a [ConflictError] where the version is not known. No append expects it.
const Unknown Version = -3

// String returns the number, or what a special expected version means.
func (v Version) String() string {
	switch v {
	case Any:
		return "any"
	case Exists:
		return "exists"
	case Unknown:
		return "unknown"
	}
	return strconv.FormatInt(int64(v), 10)
}

func (v Version) validate() error {
	if v < Exists {
		return invalid("expected version %d: want 0 or more, Any or Exists", int64(v))
	}
	return nil
}

// Position orders the events of the whole log. Positions increase but have gaps: compare them,
// never count with them. 0 is before the first event.
type Position int64

const maxPosition Position = math.MaxInt64

// String returns the number.
func (p Position) String() string { return strconv.FormatInt(int64(p), 10) }

// ParsePosition reads the text that [Position.String] returns. The error is an [InvalidError].
func ParsePosition(text string) (Position, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0, invalid("position %.40q: want a number, 0 or more", text)
	}
	return Position(n), nil
}

func invalid(format string, args ...any) error {
	return &InvalidError{Reason: fmt.Sprintf(format, args...)}
}
