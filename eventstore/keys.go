package eventstore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/internal/naming"
	"github.com/tidemark-es/tidemark/internal/pgpool"
)

type keyKey struct{}

// Key is an idempotency key: the name a caller gives to one commit so that it can repeat it.
type Key struct {
	Name    string   // at most 250 bytes
	Content [32]byte // SHA-256 of what the caller asks for

	attempt *attempt // nil for a key that no context holds
}

// Validate returns an [InvalidError] unless the name is not empty, has at most 250 bytes, and is
// UTF-8 without control characters.
func (k Key) Validate() error { return validName("idempotency key", k.Name) }

// WithKey returns a context that begins an attempt at one commit under an idempotency key: the commit is
// stored once, in whichever attempt, and every other attempt is answered with the first receipts. content is
// what the caller asks for, such as the body of a request; the same key with other content is refused with a
// [KeyReusedError]. Content is what is compared, not the events, of which a repeat may have others, such as
// new ids. The key is kept in the append's own transaction.
//
// A key serves one commit of an attempt. A second commit in the context is a [KeySpentError], in whichever
// goroutine, also to the same streams: give it a key of its own with [WithStep], none with [WithoutKey], or put both
// into one commit. A
// commit that was refused, or failed, leaves the key free; so does a transaction of the caller (see
// [Store.WithTx]) that is rolled back. A commit whose outcome is not known may be repeated in the same
// attempt, to the same streams; so may, at any time, a commit of events with the same ids. The outcome of
// the caller's own COMMIT is not seen here: if it is not known, begin another attempt.
func WithKey(ctx context.Context, name string, content []byte) context.Context {
	return context.WithValue(ctx, keyKey{}, Key{Name: name, Content: sha256.Sum256(content), attempt: new(attempt)})
}

// CommitOnce is [Store.Commit] in an attempt of its own under an idempotency key, see [WithKey]: use it where the code that
// commits knows the key. [WithKey] is for code between which and the commit there is other code, such as a command
// handler behind HTTP.
func (s *Store) CommitOnce(ctx context.Context, name string, content []byte, changes ...Change) ([]Receipt, error) {
	return s.Commit(WithKey(ctx, name, content), changes...)
}

// WithStep returns a context whose idempotency key is that of ctx for one step, for code that commits more than once for
// one request: each step commits once, however often the request is repeated. The name of the key is that of ctx
// with a slash and the step behind it; if that is too long, a hash takes the place of its end. Without a key in ctx
// it returns ctx: then no step is kept from being done again.
func WithStep(ctx context.Context, step string) context.Context {
	key, ok := KeyFrom(ctx)
	if !ok {
		return ctx
	}
	name := key.Name + "/" + step
	if len(name) > naming.MaxBytes {
		sum := sha256.Sum256([]byte(name))
		end := "/" + hex.EncodeToString(sum[:16])
		name = strings.ToValidUTF8(name[:naming.MaxBytes-len(end)], "") + end
	}
	one := Key{Name: name, Content: key.Content}
	if key.attempt != nil {
		one.attempt = key.attempt.step(step)
	}
	return context.WithValue(ctx, keyKey{}, one)
}

// WithoutKey returns a context without an idempotency key, for commits beside the one that the key is for:
// when the request is repeated, they are done again. Projections and inline handlers get their contexts so.
func WithoutKey(ctx context.Context) context.Context {
	if _, ok := KeyFrom(ctx); !ok {
		return ctx
	}
	return context.WithValue(ctx, keyKey{}, nil)
}

// KeyFrom returns what [WithKey] put into ctx.
func KeyFrom(ctx context.Context) (Key, bool) {
	key, ok := ctx.Value(keyKey{}).(Key)
	return key, ok
}

// The streams are those of the events at the positions, in the order of the changes.
const keySQL = `
select content, versions, positions,
       array(select e.stream
               from unnest(k.positions) with ordinality as p (position, n)
               join SCHEMA.events e on e.position = p.position
              order by p.n),
       current_setting('synchronous_standby_names') <> ''
  from SCHEMA.append_keys k
 where key = $1
   and (select SCHEMA.proven())`

// purgeSQL deletes a few thousand at a time, so that no transaction is long.
const purgeSQL = `
with purged as (
    delete from SCHEMA.append_keys
     where key in (select key
                     from SCHEMA.append_keys
                    where recorded_at < clock_timestamp() - $1::interval
                    limit 5000)
    returning 1)
select count(*)
  from purged`

// Receipts returns the receipts of what was committed under the idempotency key in ctx, if
// anything was: a caller who has to decide before it appends looks here first. Without a key it
// returns false. It returns a [KeyReusedError] when the key was used with other content.
func (s *Store) Receipts(ctx context.Context) ([]Receipt, bool, error) {
	key, ok := KeyFrom(ctx)
	if !ok {
		return nil, false, nil
	}
	if err := key.Validate(); err != nil {
		return nil, false, wrap(err, "look up")
	}
	receipts, streams, awaited, err := stored(ctx, s.db, s.sql.key, key)
	if awaited && !s.inTx {
		if err := s.group.standby.wait(ctx); err != nil {
			return nil, false, wrap(err, "wait for the standby to have what is stored under idempotency key %q", key.Name)
		}
	}
	key.Found(streams)
	return receipts, receipts != nil, err
}

// stored returns what was committed under a key, nil if nothing was, its streams, and whether there is a synchronous
// standby that may not have all of it yet.
func stored(ctx context.Context, db querier, sql string, key Key) (_ []Receipt, _ []StreamID, awaited bool, _ error) {
	rows, err := db.Query(ctx, sql, key.Name)
	if err != nil {
		return nil, nil, false, translateRead(err, "look up idempotency key %q", key.Name)
	}
	type row struct {
		Content             []byte
		Versions, Positions []int64
		Streams             []string
		Awaited             bool
	}
	found, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[row])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil, false, nil
	}
	if err != nil {
		return nil, nil, false, translateRead(err, "look up idempotency key %q", key.Name)
	}
	if string(found.Content) != string(key.Content[:]) {
		return nil, nil, false, fmt.Errorf("eventstore: %w", &KeyReusedError{Key: key.Name})
	}
	if len(found.Versions) != len(found.Positions) {
		return nil, nil, false, fmt.Errorf("eventstore: the row of idempotency key %q in table append_keys has %d versions and %d positions: was it changed by hand?",
			key.Name, len(found.Versions), len(found.Positions))
	}
	receipts, streams := make([]Receipt, len(found.Versions)), make([]StreamID, len(found.Streams))
	for i := range receipts {
		receipts[i] = Receipt{Version(found.Versions[i]), Position(found.Positions[i])}
	}
	for i, name := range found.Streams {
		if streams[i], err = ParseStreamID(name); err != nil {
			return nil, nil, false, wrap(err, "look up idempotency key %q", key.Name)
		}
	}
	return receipts, streams, found.Awaited, nil
}

// PurgeKeys forgets the idempotency keys that are older than age, and returns how many. A repeat of
// what was committed under one of them is then stored again: keep keys for longer than any caller
// repeats. A service's role may not do it, an operator's may (see migrations.CreateRoles).
func (s *Store) PurgeKeys(ctx context.Context, age time.Duration) (int64, error) {
	if age < 0 {
		return 0, wrap(invalid("age %s is negative", age), "purge idempotency keys")
	}
	for total := int64(0); ; {
		n, err := queryOne[int64](pgpool.Patient(ctx), s.db, s.sql.purge, age)
		if err != nil {
			return total, translate(err, "purge idempotency keys")
		}
		if total += n; n == 0 {
			return total, nil
		}
	}
}
