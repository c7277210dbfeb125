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
//   - Idempotency-Key, with a command: a key of at most 200 bytes that the client has chosen at
//     random. The same request of the same caller with the same key is done once, and once it was done is
//     answered alike, see eventstore.WithKey. With anything else in the request, If-Match included, the key
//     is refused (422). Callers are told apart by [Config.Principal]: another caller's key is another key.
//   - If-Match, with a command whose handler calls [IfMatch]: the ETag of what the client has seen.
//     At another version the command is refused (412).
//   - Tidemark-Position, with a query: the position that a command was answered with. The query
//     waits for the read model to reach it, or is answered with 503 and Retry-After.
//   - X-Request-Id and traceparent: stored as metadata of the events. Without the first, the
//     correlation id in the request's context is taken, or a random one. It is in every answer, and in the log
//     of a request that failed. One that cannot be stored (a control character, more than 200 bytes, not
//     UTF-8, empty, sent twice) is replaced, and X-Request-Id-Replaced in the answer says why; such a
//     traceparent is left out.
//
// The first three are refused with 400 when they are empty, sent twice, or otherwise malformed.
//
// # Guarantees
//
//   - Every answer of a Mux to a request that failed is a problem document, also for paths and
//     methods that are not served, and for a handler that panics (500, logged with its stack); but not what
//     [http.Server] refuses before it asks the Mux. Once an answer has begun, an error or a panic closes the
//     connection instead.
//   - The text of an error that is not known never leaves the server, nor does why a read model is
//     behind or what took too long. Of the framework's errors a client is told what they mean, without the
//     names of streams, keys and servers.
//   - A database that cannot be used at the moment (away, starting, read-only, without connections, a standby,
//     not migrated) is 503, and so is a read model that is behind.
//   - A body longer than Config.MaxBody, an address that Postgres cannot store as text, and one of
//     the headers above that is malformed, are refused before a handler runs.
//   - [Decode] accepts a member only under the exact name of its field, and once.
//   - Two commits in one handler under the Idempotency-Key of the request are 500, not 200 with one of them
//     lost: see eventstore.WithKey.
//   - A handler's context ends after Config.Timeout, unless it was set with [Mux.HandleStream]. After
//     [Mux.Close] queries and streams end at once; commands are completed.
//   - Retry-After is only sent where repeating is safe: for queries, for commands with an idempotency key, and
//     for commands that the database has refused.
//
// A Mux is safe for concurrent use once its handlers are set.
package httpapi
