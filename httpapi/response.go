package httpapi

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// ETag returns the entity tag of an aggregate at a version. [IfMatch] reads it.
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

// WriteReceipt answers a command with the id of the aggregate that was changed, its version and the position. The
// version is also the ETag, and the position is also in [PositionHeader].
func WriteReceipt(w http.ResponseWriter, status int, id string, receipt eventstore.Receipt) error {
	w.Header().Set("ETag", ETag(receipt.Version))
	w.Header().Set(PositionHeader, receipt.Position.String())
	return WriteJSON(w, status, struct {
		ID       string              `json:"id"`
		Version  eventstore.Version  `json:"version"`
		Position eventstore.Position `json:"position"`
	}{id, receipt.Version, receipt.Position})
}

// WritePage answers with a page of rows under a name. A page of limit rows can have a next one. For such a page, next
// makes from the last row the value that the client sends as the parameter after. A nil next means that there are no
// further pages.
func WritePage[R any](w http.ResponseWriter, name string, rows []R, limit int, next func(R) string) error {
	page := map[string]any{name: append([]R{}, rows...)}
	if next != nil && len(rows) > 0 && len(rows) == limit {
		page["next"] = next(rows[len(rows)-1])
	}
	return WriteJSON(w, http.StatusOK, page)
}

// Health returns a handler for readiness probes, which answers with the state of each projection. The status is 503
// while a projection has a problem, which is then in the answer, and while the function status fails. Usually status is
// the method of a [projection.Runner]. The reasons are for operators: do not serve them to the public.
func Health(status func(context.Context) (projection.Status, error)) Handler {
	type model struct {
		Name       string              `json:"name"`
		Version    int                 `json:"version"`
		Phase      string              `json:"phase"`
		State      string              `json:"state"`
		Checkpoint eventstore.Position `json:"checkpoint"`
		Lag        int64               `json:"lag"`         // events
		LagSeconds float64             `json:"lag_seconds"` // age of the first of these events
		Parked     int                 `json:"parked"`
		Problem    string              `json:"problem,omitempty"`
	}
	type holder struct {
		PID             int32   `json:"pid"`
		ApplicationName string  `json:"application_name"`
		Seconds         float64 `json:"seconds"`
		GID             string  `json:"prepared_transaction,omitempty"`
		Owner           string  `json:"owner,omitempty"`
	}
	if status == nil {
		panic("httpapi: Health: the status function is nil")
	}
	return func(w http.ResponseWriter, r *http.Request) error {
		s, err := status(r.Context())
		if err != nil {
			return WriteJSON(w, http.StatusServiceUnavailable, map[string]any{"problem": err.Error()})
		}
		code, models := http.StatusOK, []model{}
		for _, p := range s.Projections {
			m := model{p.Name, p.Version, string(p.Phase), string(p.State), p.Checkpoint, p.Lag, p.LagTime.Seconds(), p.Parked, p.Problem()}
			if m.Problem != "" {
				code = http.StatusServiceUnavailable
			}
			models = append(models, m)
		}
		answer := map[string]any{"tidemark": s.Tidemark, "projections": models}
		if s.Held != nil {
			answer["held_by"] = holder{s.Held.PID, s.Held.ApplicationName, s.Held.Age.Seconds(), s.Held.GID, s.Held.Owner}
		}
		return WriteJSON(w, code, answer)
	}
}
