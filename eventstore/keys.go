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

// Key is an idempotency key: a name that a caller gives to one commit, so that the commit can be repeated.
type Key struct {
	Name    string   // at most 250 bytes
	Content [32]byte // SHA-256 of the content that the caller gave to WithKey

	attempt *attempt // nil for a key that is not from a context
}

// Validate returns an [InvalidError] unless the name is not empty, has at most 250 bytes, and is
// UTF-8 without control characters.
func (k Key) Validate() error { return validName("idempotency key", k.Name) }

// WithKey returns a context that begins an attempt at one commit under an idempotency key. The commit is stored once,
// by one of the attempts. Every other attempt is answered with the first receipts. content is the request of the
// caller, such as the body of an HTTP request. The same key with other content is refused with a [KeyReusedError].
// The events are not compared: a repeat may have other events, for example with new ids. The key is stored in the
// append's own transaction.
//
// A key serves one commit of an attempt. A second commit in the context is a [KeySpentError], in whichever goroutine,
// also to the same streams. Give the second commit a key of its own with [WithStep] or no key with [WithoutKey], or
// put both into one commit.
//
// A commit that was refused, or failed, leaves the key free. So does a transaction of the caller (see [Store.WithTx])
// that is rolled back. A commit whose outcome is not known may be repeated in the same attempt, to the same streams.
// A commit of events with the same ids may be repeated at any time. The store does not see the outcome of the
// caller's own COMMIT: if that outcome is not known, begin another attempt.
func WithKey(ctx context.Context, name string, content []byte) context.Context {
	return context.WithValue(ctx, keyKey{}, Key{Name: name, Content: sha256.Sum256(content), attempt: new(attempt)})
}

// CommitOnce is [Store.Commit] in an attempt of its own under an idempotency key, see [WithKey]. Use CommitOnce where
// the code that commits knows the key. Use [WithKey] where other code lies between, such as a command handler between
// HTTP and the commit.
func (s *Store) CommitOnce(ctx context.Context, name string, content []byte, changes ...Change) ([]Receipt, error) {
	return s.Commit(WithKey(ctx, name, content), changes...)
}

// WithStep returns a context with an idempotency key for one step of a request. It is for code that commits more than
// once for one request: each step commits once, however often the request is repeated. The name of the new key is the
// name of the key in ctx, a slash, and the step. If that is longer than 250 bytes, a hash takes the place of its end.
// Without a key in ctx WithStep returns ctx, and a repeated request then does the step again.
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

// WithoutKey returns a context without an idempotency key, for commits beside the commit that the key is for. When
// the request is repeated, these commits are stored again. Projections and inline handlers get such contexts.
func WithoutKey(ctx context.Context) context.Context {
	if _, ok := KeyFrom(ctx); !ok {
		return ctx
	}
	return context.WithValue(ctx, keyKey{}, nil)
}

// KeyFrom returns the key that [WithKey] or [WithStep] put into ctx, and whether there is one.
func KeyFrom(ctx context.Context) (Key, bool) {
	key, ok := ctx.Value(keyKey{}).(Key)
	return key, ok
}

// keySQL returns the receipts of the commit under a key. The streams are those of the events at its positions, in the
// order of the changes. The last column says whether there is a synchronous standby.
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

// purgeSQL deletes 5,000 keys at a time, so that no transaction is long.
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

// Receipts returns the receipts of the commit that is stored under the idempotency key in ctx, and whether there is
// one. A caller that has to decide before it appends looks here first. Without a key in ctx Receipts returns false.
// It returns a [KeyReusedError] when the key was used with other content.
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
			return nil, false, wrap(err, "wait for the standby to have the commit under idempotency key %q", key.Name)
		}
	}
	key.Found(streams)
	return receipts, receipts != nil, err
}

// stored returns the receipts and the streams of the commit under a key, nil if there is none. It also returns
// whether there is a synchronous standby, which may not have that commit yet.
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

// PurgeKeys deletes the idempotency keys that are older than age, and returns how many. A repeat of a commit whose
// key was deleted is stored again, so keep keys for longer than any caller repeats. The role of an operator may purge
// keys, the role of a service may not (see migrations.CreateRoles).
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
