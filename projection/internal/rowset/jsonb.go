package rowset

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// errUnsure means that only Postgres knows the text that it would return for a document.
var errUnsure = errors.New("only Postgres knows")

// jsonbText returns a JSON document as jsonb returns it, and reports whether the result is certain. In jsonb the
// members of an object are ordered by length and then by bytes, the last of several members with one name is kept, and
// spaces and escapes are those of Postgres.
func jsonbText(data []byte) ([]byte, bool) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	text, err := appendJSONB(d, nil)
	if err != nil {
		return data, false
	}
	if _, err := d.Token(); err != io.EOF {
		return data, false
	}
	return text, true
}

func appendJSONB(d *json.Decoder, to []byte) ([]byte, error) {
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch v := token.(type) {
	case json.Delim:
		if v == '[' {
			return appendArray(d, to)
		}
		return appendObject(d, to)
	case string:
		return appendString(to, v)
	case json.Number:
		if !plainNumber(v.String()) || strings.HasPrefix(v.String(), "-0") && strings.Trim(v.String(), "-0.") == "" {
			return nil, errUnsure // an exponent, or minus zero
		}
		return append(to, v...), nil
	case bool:
		return fmt.Append(to, v), nil
	}
	return append(to, "null"...), nil
}

func appendArray(d *json.Decoder, to []byte) (_ []byte, err error) {
	to = append(to, '[')
	for n := 0; d.More(); n++ {
		if n > 0 {
			to = append(to, ", "...)
		}
		if to, err = appendJSONB(d, to); err != nil {
			return nil, err
		}
	}
	_, err = d.Token()
	return append(to, ']'), err
}

func appendObject(d *json.Decoder, to []byte) ([]byte, error) {
	members := make(map[string][]byte)
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, err
		}
		value, err := appendJSONB(d, nil)
		if err != nil {
			return nil, err
		}
		members[name.(string)] = value
	}
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	var names []string
	for name := range members {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	to = append(to, '{')
	for n, name := range names {
		if n > 0 {
			to = append(to, ", "...)
		}
		var err error
		if to, err = appendString(to, name); err != nil {
			return nil, err
		}
		to = append(append(to, ": "...), members[name]...)
	}
	return append(to, '}'), nil
}

// appendString appends a string, with escapes as Postgres writes them.
func appendString(to []byte, text string) ([]byte, error) {
	to = append(to, '"')
	for _, r := range text {
		switch {
		case r == 0 || r == '�': // zero, which Postgres refuses, or a replacement by Go for half of a surrogate pair
			return nil, errUnsure
		case r == '"' || r == '\\':
			to = append(to, '\\', byte(r))
		case strings.ContainsRune("\b\f\n\r\t", r):
			to = append(to, '\\', "btn_fr"[r-'\b'])
		case r < ' ':
			to = fmt.Appendf(to, `\u%04x`, r)
		default:
			to = append(to, string(r)...)
		}
	}
	return append(to, '"'), nil
}
