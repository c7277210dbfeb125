package httpapi

import (
	"encoding/json"
	"net/http"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// ETag returns the entity tag of an aggregate at a version, as [IfMatch] reads it.
func ETag(version eventstore.Version) string { return `"` + version.String() + `"` }

// WriteJSON answers with a JSON document.
func WriteJSON(w http.ResponseWriter, status int, body any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n')) // the client has gone
	return nil
}

// WriteReceipt answers a command: the id of what was changed, its version, which is the ETag too,
// and the position, which is in [PositionHeader] too.
func WriteReceipt(w http.ResponseWriter, status int, id string, receipt eventstore.Receipt) error {
	w.Header().Set("ETag", ETag(receipt.Version))
	w.Header().Set(PositionHeader, receipt.Position.String())
	return WriteJSON(w, status, struct {
		ID       string              `json:"id"`
		Version  eventstore.Version  `json:"version"`
		Position eventstore.Position `json:"position"`
	}{id, receipt.Version, receipt.Position})
}

// WritePage answers with a page of rows under a name. If it is full there may be more: then next
// makes from the last row what the client sends as the parameter after. Nil means that there are
// no further pages.
func WritePage[R any](w http.ResponseWriter, name string, rows []R, limit int, next func(R) string) error {
	page := map[string]any{name: append([]R{}, rows...)}
	if next != nil && len(rows) > 0 && len(rows) == limit {
		page["next"] = next(rows[len(rows)-1])
	}
	return WriteJSON(w, http.StatusOK, page)
}

// Health returns a handler for readiness probes: how far each projection is, with status 503 while
// one of them is failing, and why. The reasons are for operators: do not serve it to the public.
func Health(status func() []projection.Status) Handler {
	type model struct {
		Name       string              `json:"name"`
		Checkpoint eventstore.Position `json:"checkpoint"`
		Error      string              `json:"error,omitempty"`
	}
	return func(w http.ResponseWriter, _ *http.Request) error {
		code, models := http.StatusOK, []model{}
		for _, s := range status() {
			m := model{Name: s.Name, Checkpoint: s.Checkpoint}
			if s.Err != nil {
				code, m.Error = http.StatusServiceUnavailable, s.Err.Error()
			}
			models = append(models, m)
		}
		return WriteJSON(w, code, map[string]any{"projections": models})
	}
}
