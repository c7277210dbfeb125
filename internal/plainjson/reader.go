package plainjson

// maxDepth bounds how deep values are nested.
const maxDepth = 64

// reader goes through a text. Its methods report false when the text is not plain; the reader must not be used any more then.
type reader struct {
	data   []byte
	at     int // the index of the next character
	depth  int
	strict bool
}

func (r *reader) space() {
	for r.at < len(r.data) {
		switch r.data[r.at] {
		case ' ', '\t', '\r', '\n':
			r.at++
		default:
			return
		}
	}
}

// take moves beyond a character, and the space before it, if the character is next.
func (r *reader) take(c byte) bool {
	r.space()
	if r.at == len(r.data) || r.data[r.at] != c {
		return false
	}
	r.at++
	return true
}

// open moves into an object or array.
func (r *reader) open(c byte) bool {
	r.depth++
	return r.depth <= maxDepth && r.take(c)
}

// more moves to the member or element with the index i. Without one, more moves out of the object or array.
func (r *reader) more(i int, end byte) (more, ok bool) {
	if r.take(end) {
		r.depth--
		return false, true
	}
	more = i == 0 || r.take(',')
	return more, more
}

func (r *reader) literal(word string) bool {
	if len(r.data)-r.at < len(word) || string(r.data[r.at:r.at+len(word)]) != word {
		return false
	}
	r.at += len(word)
	return true
}

// name returns the name of a member. A plain name is ASCII without escapes.
func (r *reader) name() ([]byte, bool) {
	start, escaped, ascii, ok := r.quoted()
	if !ok || escaped || !ascii {
		return nil, false
	}
	return r.data[start : r.at-1], true
}

// text returns the meaning of a string. The bytes may be those of the data.
func (r *reader) text() ([]byte, bool) {
	start, escaped, _, ok := r.quoted()
	if !ok {
		return nil, false
	}
	text := r.data[start : r.at-1 : r.at-1]
	if escaped {
		text = unescape(text)
	}
	return text, true
}

// raw returns the text of a value.
func (r *reader) raw() ([]byte, bool) {
	r.space()
	start := r.at
	ok := r.skip()
	return r.data[start:r.at:r.at], ok
}

// skip moves beyond a value.
func (r *reader) skip() bool {
	r.space()
	if r.at == len(r.data) {
		return false
	}
	switch r.data[r.at] {
	case '{':
		return r.skipParts('{', '}')
	case '[':
		return r.skipParts('[', ']')
	case '"':
		_, _, _, ok := r.quoted()
		return ok
	case 't':
		return r.literal("true")
	case 'f':
		return r.literal("false")
	case 'n':
		return r.literal("null")
	}
	text, _ := r.number()
	return text != nil
}

func (r *reader) skipParts(begin, end byte) bool {
	if !r.open(begin) {
		return false
	}
	for i := 0; ; i++ {
		if more, ok := r.more(i, end); !more {
			return ok
		}
		if begin == '{' {
			if _, ok := r.name(); !ok || !r.take(':') {
				return false
			}
		}
		if !r.skip() {
			return false
		}
	}
}
