// Package feed lets all readers of a process read the log once. It knows pages of events, and nothing of projections.
//
// # Guarantees
//
//   - [Feed.Next] returns a page that holds all events between its beginning, which is at or before the mark that was
//     asked for, and its end, which is behind the mark. No event is left out between two pages.
//   - At most 16 pages are kept, of about 2 MiB each, and two more are read while one is being handled.
//   - Readers at the same mark share one read. A reader that is far behind reads for itself.
//   - A page is never changed. What is made of it by [Derive] is made once for each key, by whichever goroutine asks first.
//
// All functions may be called from several goroutines.
package feed
