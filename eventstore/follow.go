package eventstore

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/puddle/v2"

	"github.com/tidemark-es/tidemark/internal/pause"
	"github.com/tidemark-es/tidemark/internal/pgerr"
)

// endSQL returns the tidemark, and the id of the event that a reader has seen, for a reader that does not know the
// id. If that event is not stored any more, it raises an error.
const endSQL = `
select SCHEMA.tidemark(),
       (select e.id::text
          from SCHEMA.events e
         where e.position = $1)
 where (select SCHEMA.proven($1, $2::text::uuid))`

// Follow iterates over the log after a position and never ends by itself. At the end of the log it waits for more
// events. When it cannot read, it logs a warning and tries again, with pauses of up to five seconds, until the cause
// has passed: a connection that is lost, a server that is restarted, a standby that is not promoted yet, a sequence
// that an operator has to repair.
//
// Follow ends with an error in these cases:
//   - ctx is done, the pool is closed, or an argument is not valid
//   - the log went back behind the last event that Follow has read: a [DivergedError]
//   - the log has not answered yet, and the error shows a wrong configuration, such as [ErrNotMigrated] or missing
//     rights
//   - any error in a transaction
//
// While the loop body runs, Follow holds at most two pages of events. It holds no connection once it has the second
// page.
func (s *Store) Follow(ctx context.Context, after Position, filter Filter) iter.Seq2[Raw, error] {
	return func(yield func(Raw, error) bool) {
		if err := validAfter(after, filter); err != nil {
			yield(Raw{}, err)
			return
		}
		defer s.listen()()
		pauses := pause.NewGrowing(50*time.Millisecond, 5*time.Second)
		at := reader{seen: After(after)}
		for {
			end, err := s.await(ctx, &at)
			for page, pageErr := range s.pages(ctx, at.seen, end, filter) {
				if err = pageErr; err != nil {
					break
				}
				pauses.Reset()
				if !yieldAll(yield, page.Events) {
					return
				}
				at.seen = page.Mark()
			}
			if err != nil && ctx.Err() == nil && !s.inTx && mayPass(err, at.begun) {
				delay := pauses.Next()
				s.config.Logger.WarnContext(ctx, "eventstore: cannot follow the log and will try again",
					"position", at.seen.Position, "retry_in", delay, "error", err)
				_ = pause.Sleep(ctx, delay)
				continue
			}
			if err != nil {
				yield(Raw{}, err)
				return
			}
		}
	}
}

// mayPass reports whether a follower should try again after an error. Until the log has answered once, an error that
// looks like a wrong configuration is taken for one. Later such an error may pass: the address may lead to another
// server for a while, and an operator may undo a change of the tables.
func mayPass(err error, begun bool) bool {
	for _, lasting := range []error{ErrInvalid, ErrDiverged, puddle.ErrClosedPool} {
		if errors.Is(err, lasting) {
			return false
		}
	}
	if begun || errors.Is(err, ErrSequenceBehind) {
		return true
	}
	if hidden := (*UnprovenError)(nil); errors.As(err, &hidden) {
		return hidden.Reason == ReasonStandby || hidden.Reason == ReasonSnapshot
	}
	return pgerr.MayPass(err)
}

// Next returns the next page of the log after a mark, at most limit events, and waits until there is one. The page
// has no events if the filter selects none of the events up to Through. Projections are built on Next; [Store.Follow]
// is more convenient for everything else.
//
// A reader passes the [Page.Mark] of the page before. If the log went back behind that mark, Next returns a
// [DivergedError]. With [After] a reader begins at a position whose event it does not know. An [UnprovenError] says
// that the events after the mark cannot be read at the moment, or not by this role. For example, the server behind
// the pool may be a standby while another one is promoted.
func (s *Store) Next(ctx context.Context, after Mark, filter Filter, limit int) (Page, error) {
	if err := validAfter(after.Position, filter); err != nil {
		return Page{}, err
	}
	if limit < 1 || limit > maxPage {
		return Page{}, wrap(invalid("limit %d: want from 1 to %d", limit, maxPage), "read the log")
	}
	at := reader{seen: after}
	end, err := s.await(ctx, &at)
	if err != nil {
		return Page{}, err
	}
	return s.page(ctx, at.seen, end, filter, limit)
}

// reader is the state of a reader at the end of the log.
type reader struct {
	seen  Mark
	begun bool // the log has answered once
}

// await waits until the tidemark is after the reader's mark, and returns the tidemark.
func (s *Store) await(ctx context.Context, r *reader) (Position, error) {
	for waits := false; ; waits = true {
		appended := s.news.signal.Wait() // before the look, so that an append after the look is not missed
		end, err := s.look(ctx, r)
		if err != nil {
			return end, err
		}
		if end > r.seen.Position {
			s.news.note()
			return end, nil
		}
		if !waits {
			defer s.listen()()
		}
		if err := pause.Wait(ctx, s.pollInterval(), appended); err != nil {
			return 0, wrap(err, "wait for events after position %d", r.seen.Position)
		}
	}
}

// look returns the tidemark, and notes the id of the event at the reader's mark.
func (s *Store) look(ctx context.Context, r *reader) (end Position, err error) {
	rows, err := s.db.Query(ctx, s.sql.end, r.seen.Position, r.seen.id())
	if err != nil {
		return 0, translateRead(err, "read the tidemark")
	}
	var id *string
	if _, err = pgx.ForEachRow(rows, []any{&end, &id}, func() error { return nil }); err != nil {
		return 0, translateRead(err, "read the tidemark")
	}
	r.begun = true
	if id != nil && end >= r.seen.Position { // otherwise the tidemark is before the event, and the reader has not seen it
		r.seen.ID, err = uuid.Parse(*id)
	}
	return end, err
}

// listen makes notifications wake this process's readers until the returned function is called.
func (s *Store) listen() (leave func()) {
	if s.listener == nil {
		return func() {}
	}
	return s.listener.Join()
}
