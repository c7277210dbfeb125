package tidemark_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.+)$`)
	example = regexp.MustCompile("`(Example[A-Za-z_]+)`")
	fenced  = regexp.MustCompile("(?s)```.*?```")
	notes   = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// anchor returns the anchor that GitHub gives a heading.
func anchor(heading string) string {
	return strings.ReplaceAll(notes.ReplaceAllString(strings.ToLower(heading), ""), " ", "-")
}

// TestLinks: the files and headings that the documents link to exist, and so do the examples that the documents name.
func TestLinks(t *testing.T) {
	t.Parallel()
	var documents []string
	var tests strings.Builder
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != "." && strings.HasPrefix(d.Name(), "."):
			return filepath.SkipDir
		case strings.HasSuffix(path, ".md"):
			documents = append(documents, path)
		case strings.HasSuffix(path, "_test.go"):
			text, err := os.ReadFile(path)
			tests.Write(text)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	anchors := make(map[string]map[string]bool)
	for _, path := range documents {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		anchors[path] = make(map[string]bool)
		for _, h := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(string(text), ""), -1) {
			anchors[path][anchor(h[1])] = true
		}
	}
	links, examples := 0, 0
	for _, path := range documents {
		text, _ := os.ReadFile(path)
		prose := fenced.ReplaceAllString(string(text), "")
		for _, found := range link.FindAllStringSubmatch(prose, -1) {
			to, at, _ := strings.Cut(found[1], "#")
			if strings.Contains(to, "://") || strings.HasPrefix(to, "mailto:") {
				continue
			}
			links++
			target := path
			if to != "" {
				target = filepath.Join(filepath.Dir(path), to)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s, which is not there", path, found[1])
			} else if known, ok := anchors[target]; at != "" && ok && !known[at] {
				t.Errorf("%s links to %s, which has no such heading", path, found[1])
			}
		}
		for _, found := range example.FindAllStringSubmatch(prose, -1) {
			if path == "CHANGELOG.md" {
				continue
			}
			examples++
			if !strings.Contains(tests.String(), "func "+found[1]+"()") {
				t.Errorf("%s names %s, which is not there", path, found[1])
			}
		}
	}
	if links < 50 || examples < 50 {
		t.Errorf("%d links and %d examples: are they not found?", links, examples)
	}
}
