package migrations

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// objects describes the objects of a schema: each name, such as "column events.position", has a definition. The files
// and the catalog of Postgres are both brought to this form, and then compared.
type objects map[string]definition

// definition holds the attributes of an object that must be the same in the files and in the catalog.
type definition struct {
	text string // "bigint not null"
	body string // of a function
}

// token splits SQL into parts. A semicolon, comma or parenthesis that has a meaning is a part of its own. Inside a
// function body, a string or a comment it has none, and stays inside a longer part.
var token = regexp.MustCompile(`(?s)\$\$.*?\$\$|'(?:[^']|'')*'|--[^\n]*|[;,()]|[^$'\-;,()]+|.`)

// statements splits SQL at its semicolons and leaves comments out.
func statements(sql string) (found []string) {
	var statement strings.Builder
	for _, part := range token.FindAllString(sql, -1) {
		switch {
		case strings.HasPrefix(part, "--"):
		case part == ";":
			found = append(found, strings.TrimSpace(statement.String()))
			statement.Reset()
		default:
			statement.WriteString(part)
		}
	}
	return found
}

// list returns the text in the first parentheses, split at its commas.
func list(sql string) (items []string) {
	depth, item := 0, ""
	for _, part := range token.FindAllString(sql, -1) {
		switch {
		case part == "(":
			depth++
		case part == ")":
			depth--
		}
		switch {
		case depth == 0 && part == ")", depth == 1 && part == ",":
			if item = strings.TrimSpace(item); item != "" {
				items = append(items, item)
			}
			if item = ""; part == ")" {
				return items
			}
		case depth > 1 || depth == 1 && part != "(":
			item += part
		}
	}
	return items
}

var (
	tableStatement    = regexp.MustCompile(`(?s)^create (?:unlogged )?table tidemark\.(\w+) (\(.*)$`)
	functionStatement = regexp.MustCompile(`(?s)^create (?:or replace )?function tidemark\.(\w+)(\(.*?\))\s+returns\s(.*?)\bas \$\$(.*)\$\$$`)
	indexStatement    = regexp.MustCompile(`(?s)^create (unique )?index (\w+) on tidemark\.(\w+)`)
	sequenceStatement = regexp.MustCompile(`(?s)^create sequence tidemark\.(\w+)(.*)$`)
	triggerStatement  = regexp.MustCompile(`(?s)^create (?:constraint )?trigger (\w+)\s+(before|after)\s+(.*?)\s+on tidemark\.(\w+)\s.*for each (row|statement) execute function tidemark\.(\w+)`)
)

// wanted returns the objects that the files make, in the default schema. It ignores statements of other kinds.
// TestEverythingIsCompared fails if a file makes an object that is missing here.
func wanted(steps []Migration) objects {
	found := objects{}
	for _, step := range steps {
		for _, sql := range statements(step.plain) {
			if m := tableStatement.FindStringSubmatch(sql); m != nil {
				found.addTable(m[1], list(m[2]))
			} else if m := functionStatement.FindStringSubmatch(sql); m != nil {
				found.addFunction(m[1], list(m[2]), m[3], m[4])
			} else if m := indexStatement.FindStringSubmatch(sql); m != nil {
				found["index "+m[2]+" on "+m[3]] = definition{text: strings.TrimSpace("valid " + m[1])}
			} else if m := sequenceStatement.FindStringSubmatch(sql); m != nil {
				found["sequence "+m[1]] = definition{text: "cache " + firstOr(cache.FindStringSubmatch(m[2]), "1")}
			} else if m := triggerStatement.FindStringSubmatch(sql); m != nil {
				events := strings.Split(m[3], " or ")
				slices.Sort(events)
				found["trigger "+m[1]+" on "+m[4]] = definition{
					text: fmt.Sprintf("%s %s for each %s %s", m[2], strings.Join(events, " or "), m[5], m[6]),
				}
			}
		}
	}
	return found
}

var cache = regexp.MustCompile(`\bcache (\d+)`)

// firstOr returns the first group of a match.
func firstOr(match []string, otherwise string) string {
	if match == nil {
		return otherwise
	}
	return match[1]
}

var (
	columnItem     = regexp.MustCompile(`(?s)^(\w+)\s+(\S+)(.*)$`)
	constraintItem = regexp.MustCompile(`^(?:constraint \w+ )?(primary key|unique|foreign key|check)\b`)
	inlineItem     = regexp.MustCompile(`\b(primary key|unique|references|check)\b`)
)

func (o objects) addTable(table string, items []string) {
	o["table "+table] = definition{}
	counts := map[string]int{}
	required := map[string]bool{}
	for _, item := range items {
		if m := constraintItem.FindStringSubmatch(item); m != nil {
			counts[m[1]]++
			if m[1] == "primary key" {
				for _, column := range list(item) {
					required[column] = true
				}
			}
		}
	}
	for _, item := range items {
		m := columnItem.FindStringSubmatch(item)
		if m == nil || constraintItem.MatchString(item) {
			continue
		}
		for _, inline := range inlineItem.FindAllString(m[3], -1) {
			counts[strings.Replace(inline, "references", "foreign key", 1)]++
			required[m[1]] = required[m[1]] || inline == "primary key"
		}
		o["column "+table+"."+m[1]] = definition{text: columnText(m[2], m[3], required[m[1]])}
	}
	for kind, n := range counts {
		o[kind+" of "+table] = definition{text: fmt.Sprintf("%d of them", n)}
	}
}

func columnText(kind, rest string, required bool) string {
	text := normal(kind)
	if required || strings.Contains(rest, "not null") {
		text += " not null"
	}
	if strings.Contains(rest, `collate "C"`) {
		text += ` collate "C"`
	}
	if strings.Contains(rest, " default ") || strings.Contains(rest, " generated ") {
		text += " default"
	}
	return text
}

// synonyms maps the short names of types, which the files use, to the names in the catalog.
var synonyms = map[string]string{
	"int": "integer", "bool": "boolean", "timestamptz": "timestamp with time zone", "float8": "double precision",
}

// normal returns the name of a type in the catalog.
func normal(kind string) string {
	element, array := strings.CutSuffix(kind, "[]")
	if long, ok := synonyms[element]; ok {
		element = long
	}
	if array {
		element += "[]"
	}
	return element
}

var setting = regexp.MustCompile(`(?m)^set (\w+) = (.+?)\s*$`)

func (o objects) addFunction(name string, arguments []string, header, body string) {
	var kinds []string
	for _, argument := range arguments {
		words := strings.Fields(argument) // name, type, and perhaps a default
		kinds = append(kinds, normal(words[1]))
	}
	var settings []string
	for _, m := range setting.FindAllStringSubmatch(header, -1) {
		settings = append(settings, m[1]+"="+m[2])
	}
	slices.Sort(settings)
	text := strings.Join(settings, "; ")
	if strings.Contains(header, "security definer") {
		text = strings.TrimSpace("security definer " + text)
	}
	o["function "+name+"("+strings.Join(kinds, ", ")+")"] = definition{text: text, body: unix(body)}
}

// unix removes the carriage returns that a checkout on Windows adds.
func unix(text string) string { return strings.ReplaceAll(text, "\r\n", "\n") }

// compare returns how the objects of a schema differ from the wanted ones, in the order of names. It ignores other
// objects in the schema.
func compare(want, have objects, schema string) (found []Difference) {
	for _, name := range slices.Sorted(maps.Keys(want)) {
		d := want[name]
		d.body = inSchema(d.body, schema)
		if problem := d.differs(have, name); problem != "" {
			found = append(found, Difference{Object: name, Problem: problem})
		}
	}
	return found
}

func (d definition) differs(have objects, name string) string {
	there, ok := have[name]
	switch {
	case !ok:
		return "is missing"
	case d.text != there.text && d.body == "":
		return fmt.Sprintf("is %q, want %q", there.text, d.text)
	case d.text != there.text:
		return fmt.Sprintf("has the attributes %q, want %q", there.text, d.text)
	case d.body != there.body:
		return "has another text"
	}
	return ""
}

// renamedFrom returns the schema that a function still names, if this name is the function's only difference from this
// release. Otherwise it returns "".
func renamedFrom(want, have objects, schema string) string {
	for name, d := range want {
		at := schemaName.FindStringIndex(d.body)
		there := have[name].body
		if at == nil || at[0] > len(there) {
			continue
		}
		m := firstName.FindStringSubmatch(there[at[0]:])
		if m != nil && m[1] != schema && inSchema(d.body, m[1]) == there {
			return m[1]
		}
	}
	return ""
}

// firstName finds a schema's name before a dot, at the start of a text.
var firstName = regexp.MustCompile(`^"?([a-z_][a-z0-9_]*)"?\.`)
