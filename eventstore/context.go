package eventstore

import (
	"context"
	"crypto/sha256"
)

type (
	metadataKey struct{}
	keyKey      struct{}
)

// WithMetadata returns a context under which appended events get m, field by field where the
// draft itself says nothing. Metadata already in ctx fills what m leaves empty.
func WithMetadata(ctx context.Context, m Metadata) context.Context {
	return context.WithValue(ctx, metadataKey{}, m.or(MetadataFrom(ctx)))
}

// MetadataFrom returns what [WithMetadata] put into ctx.
func MetadataFrom(ctx context.Context) Metadata {
	m, _ := ctx.Value(metadataKey{}).(Metadata)
	return m
}

// Key is an idempotency key: the name a caller gives to one commit so that it can repeat it.
type Key struct {
	Name    string   // at most 250 bytes
	Content [32]byte // SHA-256 of what the caller asks for
}

// Validate returns an [InvalidError] unless the name is not empty, has at most 250 bytes, and is
// UTF-8 without control characters.
func (k Key) Validate() error { return validName("idempotency key", k.Name) }

// WithKey returns a context under which the next append is stored under an idempotency key: a
// repeat of it stores nothing and is answered with the first receipts. content is what the
// caller asks for, such as the body of a request; the same key with other content is refused
// with a [KeyReusedError]. The key is kept in the append's own transaction.
//
// A key belongs to one commit. Code that appends twice needs two contexts.
func WithKey(ctx context.Context, name string, content []byte) context.Context {
	return context.WithValue(ctx, keyKey{}, Key{Name: name, Content: sha256.Sum256(content)})
}

// KeyFrom returns what [WithKey] put into ctx.
func KeyFrom(ctx context.Context) (Key, bool) {
	key, ok := ctx.Value(keyKey{}).(Key)
	return key, ok
}
