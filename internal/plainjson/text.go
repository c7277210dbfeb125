package plainjson

import (
	"encoding/binary"
	"unicode/utf8"
)

// quoted moves beyond a string, and returns where the string starts, after the quotation mark. It reports false for a
// string that is not plain.
func (r *reader) quoted() (start int, escaped, ascii, ok bool) {
	if !r.take('"') {
		return 0, false, false, false
	}
	start = r.at
	data, i := r.data, r.at
	var all byte // has the highest bit of any character beyond ASCII
	for i < len(data) {
		for i+8 <= len(data) && usual(binary.LittleEndian.Uint64(data[i:])) {
			i += 8
		}
		if i == len(data) {
			break
		}
		c := data[i]
		all |= c
		switch {
		case c == '"':
			r.at, ascii = i+1, all < utf8.RuneSelf
			return start, escaped, ascii, ascii || utf8.Valid(data[start:i])
		case c == '\\':
			_, length := escape(data[i:])
			if length == 0 {
				return start, true, false, false
			}
			escaped = true
			i += length
		case c < ' ':
			return start, escaped, false, false
		default:
			i++
		}
	}
	return start, escaped, false, false
}

// usual reports whether none of eight characters is a quotation mark, a backslash, a control character or beyond ASCII.
func usual(eight uint64) bool {
	const ones = 0x0101010101010101
	quotes, backslashes := eight^('"'*ones), eight^('\\'*ones)
	// Subtraction sets the highest bit of each character that is smaller, and perhaps of others.
	return (eight|(eight-' '*ones)|(quotes-ones)|(backslashes-ones))&(0x80*ones) == 0
}

// escape returns the meaning of the escape that a text begins with, and its length. The length is 0 for no escape, and
// for half of a surrogate pair.
func escape(text []byte) (meaning rune, length int) {
	if len(text) < 2 {
		return 0, 0
	}
	switch c := text[1]; c {
	case '"', '\\', '/':
		return rune(c), 2
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	case 'u':
		return hexEscape(text)
	}
	return 0, 0
}

func hexEscape(text []byte) (meaning rune, length int) {
	const length6 = len(`\u0000`)
	if len(text) < length6 {
		return 0, 0
	}
	for _, c := range text[2:length6] {
		meaning <<= 4
		switch {
		case c >= '0' && c <= '9':
			meaning |= rune(c - '0')
		case c >= 'a' && c <= 'f':
			meaning |= rune(c - 'a' + 10)
		case c >= 'A' && c <= 'F':
			meaning |= rune(c - 'A' + 10)
		default:
			return 0, 0
		}
	}
	if !utf8.ValidRune(meaning) {
		return 0, 0
	}
	return meaning, length6
}

// unescape returns the meaning of a string whose escapes are plain.
func unescape(text []byte) []byte {
	out := make([]byte, 0, len(text))
	for len(text) > 0 {
		if text[0] != '\\' {
			out, text = append(out, text[0]), text[1:]
			continue
		}
		meaning, length := escape(text)
		out, text = utf8.AppendRune(out, meaning), text[length:]
	}
	return out
}

// number moves beyond a number, and reports whether the number has neither fraction nor exponent. It returns nil for no
// number.
func (r *reader) number() (text []byte, whole bool) {
	start := r.at
	if r.at < len(r.data) && r.data[r.at] == '-' {
		r.at++
	}
	zero := r.at < len(r.data) && r.data[r.at] == '0'
	if n := r.digits(); n == 0 || zero && n > 1 {
		return nil, false
	}
	whole = true
	if r.at < len(r.data) && r.data[r.at] == '.' {
		r.at++
		whole = false
		if r.digits() == 0 {
			return nil, false
		}
	}
	if r.at < len(r.data) && (r.data[r.at] == 'e' || r.data[r.at] == 'E') {
		r.at++
		whole = false
		if r.at < len(r.data) && (r.data[r.at] == '+' || r.data[r.at] == '-') {
			r.at++
		}
		if r.digits() == 0 {
			return nil, false
		}
	}
	return r.data[start:r.at], whole
}

// digits moves beyond digits, and returns their number.
func (r *reader) digits() int {
	start := r.at
	for r.at < len(r.data) && r.data[r.at] >= '0' && r.data[r.at] <= '9' {
		r.at++
	}
	return r.at - start
}
