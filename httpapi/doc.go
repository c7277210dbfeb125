// Package httpapi serves commands and queries over HTTP.
//
// A [Mux] is an [http.ServeMux] whose handlers may fail: an error becomes a problem document
// (RFC 9457). What an application's own errors mean to a client is said in [Config.Problems]; the
// framework's are known. For each request the Mux puts into the context what the rest of the
// framework looks for there, so that handlers only decode, dispatch and answer:
//
//	func (a *api) deposit(w http.ResponseWriter, r *http.Request) error {
//		var body Booking
//		if err := httpapi.Decode(r, &body); err != nil {
//			return err
//		}
//		seen, err := httpapi.IfMatch(r)
//		if err != nil {
//			return err
//		}
//		receipt, err := a.bus.Dispatch(r.Context(), Deposit{r.PathValue("id"), seen, body})
//		if err != nil {
//			return err
//		}
//		return httpapi.WriteReceipt(w, http.StatusOK, r.PathValue("id"), receipt)
//	}
//
// The headers a client may send:
//
//   - Idempotency-Key, with a command: the same key with the same request is done once and
//     answered alike, see eventstore.WithKey. With another request it is refused (422).
//   - If-Match, with a command: the ETag of what the client has seen. Anything else is refused
//     (412).
//   - Tidemark-Position, with a query: the position that a command was answered with. The query
//     waits for the read model to reach it, or is answered with 503 and Retry-After.
//   - X-Request-Id and traceparent: stored as metadata of the events. Without the first a random
//     one is made.
//
// # Guarantees
//
//   - Every answer to a request that failed is a problem document, also for paths and methods that
//     are not served. The text of an error that is not known never leaves the server.
//   - A body longer than Config.MaxBody, an address that Postgres cannot store as text, and a
//     header with a meaning that is malformed, are refused before a handler runs.
//   - A handler's context ends after Config.Timeout. After [Mux.Close] queries end at once;
//     commands are completed.
//   - Retry-After is only sent where repeating is safe: for queries, and for commands with an
//     idempotency key.
//
// A Mux is safe for concurrent use once its handlers are set.
package httpapi
