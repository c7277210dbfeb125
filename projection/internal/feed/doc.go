// Package feed lets all readers of a process read the log once. It knows pages of events, and nothing about
// projections.
//
// # Guarantees
//
//   - [Feed.Next] returns a page that begins at or before the mark that was asked for, and ends after the mark. The
//     page holds all events between its beginning and its end. No event is missing between two pages.
//   - A feed keeps at most 16 pages of about 2 MiB each. It reads two more pages ahead while one is being handled.
//   - Readers at the same mark share one read. A reader that is far behind reads on its own.
//   - A page is never changed. A value that [Derive] computes from it is computed once for each key, by the first
//     goroutine that asks for it.
//
// All functions may be called from several goroutines.
package feed
