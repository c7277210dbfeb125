package codectest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
)

// goldenFile is one sample: a payload as some release wrote it, and what it means today.
type goldenFile struct {
	Type   string          `json:"type"`
	Schema int             `json:"schema"`
	Data   json.RawMessage `json:"data"`
	// Means are the events that Data decodes into, as today's codec would write them.
	Means []golden `json:"means"`
}

type golden struct {
	Type   string          `json:"type"`
	Schema int             `json:"schema"`
	Data   json.RawMessage `json:"data"`
}

// Golden fails when an event that an earlier release has written would no longer decode, or would
// mean something else. It keeps a file per type and schema version in a folder of the application's
// repository, usually "testdata/events". samples are events of today, at least one of each type, with
// every field set:
//
//	func TestGolden(t *testing.T) {
//		codectest.Golden[account.Event](t, "testdata/events", account.Codec,
//			account.Opened{Owner: "Ada", Currency: "CZK"}, account.Deposited{Amount: 100})
//	}
//
// Run the test once with GOLDEN=update in the environment to write the missing files, and commit them. From then on the
// test fails
//
//   - when a sample is written in another shape than the one in its file: raise the schema version with
//     [codec.Type.WithSchema] and add an upcaster for the version before;
//   - when a file does not decode, or decodes into something else than before: if you want the change, run the test
//     with GOLDEN=update again and look at the difference;
//   - when a type or schema version that the codec decodes has no file.
//
// A shape that only earlier releases wrote has no sample today. Write its file by hand, named after type and schema,
// such as account.opened.1.json. GOLDEN=update then adds what the payload means:
//
//	{"type": "account.opened", "schema": 1, "data": {"owner": "Ada"}}
//
// GOLDEN=update never changes the payload of a file, because a stored event does not change either. To take back a
// shape that was never released, delete its file.
func Golden[E any](t testing.TB, folder string, c *codec.Codec[E], samples ...E) {
	t.Helper()
	if c == nil || folder == "" {
		t.Fatalf("golden: the codec is nil, or the folder %q is empty: pass the codec of the samples, and a folder such as testdata/events", folder)
	}
	update := os.Getenv("GOLDEN") == "update"
	files := readGolden(t, folder)
	missing := make(map[string]bool) // the missing files that were reported
	for _, sample := range samples {
		draft, err := c.Encode(sample)
		if err != nil {
			t.Errorf("golden: sample %+v: %v", sample, err)
			continue
		}
		name := goldenName(draft.Type, draft.Schema)
		file, ok := files[name]
		switch {
		case !ok && update:
			files[name] = goldenFile{Type: draft.Type, Schema: draft.Schema, Data: draft.Data}
		case !ok:
			missing[name] = true
			t.Errorf("golden: %s: there is no such file: run the test with GOLDEN=update and commit it", filepath.Join(folder, name))
		default:
			if diff := diffJSON(file.Data, draft.Data); diff != "" {
				t.Errorf("golden: %s: type %q at schema %d is written in another shape now: raise the schema, "+
					"and add an upcaster for schema %d (-file +sample):\n%s", filepath.Join(folder, name), draft.Type, draft.Schema, draft.Schema, diff)
			}
		}
	}
	for _, name := range c.Types() {
		for _, schema := range c.Schemas(name) {
			if _, ok := files[goldenName(name, schema)]; !ok && !missing[goldenName(name, schema)] {
				t.Errorf("golden: %s: there is no such file: add a sample of event type %q at schema %d or, if only an "+
					"earlier release wrote that, the file with its type, schema and data", filepath.Join(folder, goldenName(name, schema)), name, schema)
			}
		}
	}
	for name, file := range files {
		checkGolden(t, filepath.Join(folder, name), c, file, update)
	}
}

// checkGolden compares what a file means now with what it meant before.
func checkGolden[E any](t testing.TB, path string, c *codec.Codec[E], file goldenFile, update bool) {
	t.Helper()
	events, err := c.Decode(eventstore.Raw{Type: file.Type, Schema: file.Schema, Data: file.Data})
	if err != nil {
		t.Errorf("golden: %s: an event that an earlier release has written does not decode any more: %v", path, err)
		return
	}
	means := []golden{}
	for _, event := range events {
		draft, err := c.Encode(event.Data)
		if err != nil {
			t.Errorf("golden: %s: it decodes into %T, which does not encode: %v", path, event.Data, err)
			return
		}
		means = append(means, golden{draft.Type, draft.Schema, draft.Data})
	}
	if update {
		file.Means = means
		writeGolden(t, path, file)
		return
	}
	if diff := diffJSON(marshalGolden(t, file.Means), marshalGolden(t, means)); diff != "" {
		t.Errorf("golden: %s: it decodes into something else than it did; if that is what you want, run the test with GOLDEN=update "+
			"(-before +now):\n%s", path, diff)
	}
}

// goldenName returns the name of a sample's file. It replaces characters of the event type that a file name cannot
// have.
func goldenName(eventType string, schema int) string {
	safe := strings.Map(func(r rune) rune {
		if strings.ContainsRune(`/\:*?"<>|`, r) {
			return '_'
		}
		return r
	}, eventType)
	return fmt.Sprintf("%s.%d.json", safe, schema)
}

// readGolden reads all files of a folder, by name.
func readGolden(t testing.TB, folder string) map[string]goldenFile {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(folder, "*.json"))
	if err != nil {
		t.Fatalf("golden: %v", err)
	}
	files := make(map[string]goldenFile)
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatalf("golden: %v", err)
		}
		var file goldenFile
		if err := json.Unmarshal(text, &file); err != nil {
			t.Fatalf("golden: %s: %v", path, err)
		}
		if file.Type == "" || file.Schema < 1 || len(file.Data) == 0 {
			t.Errorf("golden: %s: type, schema or data is missing", path)
			continue
		}
		if want := goldenName(file.Type, file.Schema); filepath.Base(path) != want {
			t.Errorf("golden: %s: it is about event type %q at schema %d: call it %s", path, file.Type, file.Schema, want)
		}
		files[filepath.Base(path)] = file
	}
	return files
}

func writeGolden(t testing.TB, path string, file goldenFile) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatalf("golden: %v", err)
	}
	if err := os.WriteFile(path, append(marshalGolden(t, file), '\n'), 0o644); err != nil {
		t.Fatalf("golden: %v", err)
	}
}

func marshalGolden(t testing.TB, value any) []byte {
	t.Helper()
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "\t")
	if err := encoder.Encode(value); err != nil {
		t.Fatalf("golden: %v", err)
	}
	return bytes.TrimSpace(text.Bytes())
}

// diffJSON compares values, and ignores how they are written, except that numbers are compared as they are written.
func diffJSON(a, b []byte) string {
	values := make([]any, 2)
	for i, text := range [][]byte{a, b} {
		decoder := json.NewDecoder(bytes.NewReader(text))
		decoder.UseNumber()
		if err := decoder.Decode(&values[i]); err != nil {
			values[i] = string(text)
		}
	}
	if reflect.DeepEqual(values[0], values[1]) || slices.Equal(a, b) {
		return ""
	}
	return cmp.Diff(values[0], values[1])
}
