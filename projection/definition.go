package projection

import (
	"fmt"
	"strings"
	"unicode"
)

// definition is a canonical form of the DDL that makes the tables of a version. Two DDL texts with the same tokens make
// the same tables: spaces, line breaks and comments do not matter.
func (p *Projection) definition() string { return strings.Join(tokens(p.options.DDL), " ") }

// tokens cuts SQL into words, quoted texts and single characters, without comments. Unquoted words become lower case,
// as in Postgres.
func tokens(sql string) (found []string) {
	for sql != "" {
		n, kept := token(sql)
		if kept {
			text := sql[:n]
			if isWord(rune(text[0])) {
				text = strings.ToLower(text)
			}
			found = append(found, text)
		}
		sql = sql[n:]
	}
	for len(found) > 0 && found[len(found)-1] == ";" {
		found = found[:len(found)-1]
	}
	return found
}

// token returns the length of the first token, and whether the token is kept: spaces and comments are not.
func token(sql string) (length int, kept bool) {
	first := rune(sql[0])
	switch {
	case unicode.IsSpace(first):
		return 1, false
	case strings.HasPrefix(sql, "--"):
		return past(sql, 2, "\n"), false
	case strings.HasPrefix(sql, "/*"):
		return comment(sql), false
	case first == '\'' || first == '"':
		return past(sql, 1, string(first)), true
	case first == '$':
		if tag := dollarTag(sql); tag != "" {
			return past(sql, len(tag), tag), true
		}
	case isWord(first):
		n := strings.IndexFunc(sql, func(r rune) bool { return !isWord(r) })
		if n < 0 {
			n = len(sql)
		}
		return n, true
	}
	return 1, true
}

func isWord(r rune) bool { return r == '_' || r >= 0x80 || unicode.IsLetter(r) || unicode.IsDigit(r) }

// past looks for a closing text after the first from bytes. It returns the index after the closing text, or the length
// of sql if there is none.
func past(sql string, from int, closing string) int {
	if n := strings.Index(sql[from:], closing); n >= 0 {
		return from + n + len(closing)
	}
	return len(sql)
}

// comment returns the length of a comment. Comments may be nested.
func comment(sql string) int {
	depth := 0
	for n := 0; n+1 < len(sql); n++ {
		switch sql[n : n+2] {
		case "/*":
			depth++
			n++
		case "*/":
			depth--
			n++
		}
		if depth == 0 {
			return n + 1
		}
	}
	return len(sql)
}

// dollarTag returns the tag that opens a dollar-quoted text, or "" if the SQL does not begin with one.
func dollarTag(sql string) string {
	n := strings.IndexByte(sql[1:], '$')
	if n < 0 || strings.ContainsFunc(sql[1:1+n], func(r rune) bool { return !isWord(r) }) {
		return ""
	}
	return sql[:n+2]
}

// difference describes where two definitions begin to differ.
func difference(stored, own string) string {
	there, here := strings.Split(stored, " "), strings.Split(own, " ")
	n := 0
	for n < len(there) && n < len(here) && there[n] == here[n] {
		n++
	}
	around := func(all []string) string {
		return strings.Join(all[max(0, min(n-3, len(all))):min(n+4, len(all))], " ")
	}
	return fmt.Sprintf("its tables were made by other statements in Options.DDL: %q in the database, %q in this process", around(there), around(here))
}
