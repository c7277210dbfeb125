// Package httpapi serves commands and queries over HTTP.
//
// A [Mux] is an [http.ServeMux] whose handlers return errors: an error becomes a problem document (RFC 9457).
// [Config.Problems] says what the application's own errors mean to a client. The Mux knows the errors of the framework.
// For each request it puts metadata, idempotency key and position into the context, where the rest of the framework
// finds them. So handlers only decode, dispatch and answer:
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
// A client may send these headers:
//
//   - Idempotency-Key, with a command: a key of at most 200 bytes that the client has chosen at random. The same
//     request of the same caller with the same key is done once. After that every repeat gets the same answer, see
//     eventstore.WithKey. The same key with another request, If-Match included, is refused (422). [Config.Principal]
//     tells callers apart: the same key of another caller is another key.
//   - If-Match, with a command whose handler calls [IfMatch]: the ETag that the client has seen. At another version the
//     command is refused (412).
//   - Tidemark-Position, with a query: the position that the answer to a command held. The query waits until the read
//     model has reached this position. If the wait takes too long, the answer is 503 with Retry-After.
//   - X-Request-Id and traceparent: stored as metadata of the events. Without X-Request-Id, the correlation id in the
//     request's context is taken, or else a random one. The id is in every answer except a redirect, and in the log of
//     a request that failed. An id that cannot be stored (a control character, more than 200 bytes, not UTF-8, empty,
//     sent twice) is replaced, and the header X-Request-Id-Replaced of the answer says why. A traceparent that cannot
//     be stored is left out.
//
// The first three are refused with 400 when they are empty, sent twice, or otherwise malformed.
//
// # Guarantees
//
//   - Every answer of a Mux to a request that failed is a problem document. This includes paths and methods that are
//     not served, and a handler that panics (500, logged with its stack). It does not include requests that
//     [http.Server] refuses before it asks the Mux. Once an answer has begun, an error or a panic closes the connection
//     instead.
//   - Three texts never leave the server: that of an error that is not known, why a read model is behind, and what took
//     too long. A client is told what an error of the framework means, without the names of streams, keys and servers.
//   - A database that cannot be used at the moment (away, starting, read-only, without connections, a standby, not
//     migrated) is answered with 503, and so is a read model that is behind.
//   - A body longer than Config.MaxBody, an address that Postgres cannot store as text, and a malformed
//     Idempotency-Key, If-Match or Tidemark-Position are refused before a handler runs.
//   - [Decode] accepts a member only under the exact name of its field, and only once.
//   - A handler that commits twice under the Idempotency-Key of the request is answered with 500. It is never answered
//     with 200 while one of its commits is lost: see eventstore.WithKey.
//   - A handler's context ends after Config.Timeout, unless it was set with [Mux.HandleStream]. After [Mux.Close]
//     queries and streams end at once. Commands are completed.
//   - Retry-After is sent only where a repeat is safe: for queries, for commands with an idempotency key, and for
//     commands that the database has refused.
//
// A Mux is safe for concurrent use once its handlers are set.
package httpapi
