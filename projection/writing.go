package projection

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/panics"
)

// OnWrite says that a projection gives the events whose types are in the codec to write, which queues the statements of
// an event. The statements of many events go to Postgres in one round trip, so OnWrite is several times as fast as [On]
// for events whose statements need no answer, such as upserts. The statements run in the order of the events, in the
// transaction that moves the checkpoint. Their results are not read.
//
// A statement that fails is blamed on its event, and an error of write on the event of the call. The batch is tried
// again without the event. [Options.Timeout] is for a whole batch. The function write must have no effects, because it
// is called again after a failure. Tables are named in braces, as in handlers. key is like the key of [OnKeyed]; nil
// means the stream. OnWrite panics when the codec or write is nil, or the codec decodes no type.
func OnWrite[E any](c *codec.Codec[E], key func(eventstore.Event[E]) string, write func(statements *pgx.Batch, event eventstore.Event[E]) error) HandlerSource {
	mustHave("OnWrite", c, given{"the function write", write == nil})
	source := Each(c, key, func(event eventstore.Event[E]) (any, error) {
		return queuer(func(statements *pgx.Batch) error { return write(statements, event) }), nil
	})
	return HandlerSource{together(writer, []BatchSource{source})}
}

// queuer queues the statements of one event.
type queuer func(statements *pgx.Batch) error

// writer handles the batches of all sources that OnWrite returns. So one batch can have the events of several codecs.
var writer = &batchHandler{writeBatch}

// writeBatch queues the statements of all items, and sends them at once.
func writeBatch(ctx context.Context, tx pgx.Tx, b Batch) error {
	var statements pgx.Batch
	ends := make([]int, len(b.Items)) // how many statements are queued after each item
	for n, item := range b.Items {
		if err := item.Value.(queuer).queue(&statements); err != nil {
			return &BatchItemError{n, err}
		}
		ends[n] = statements.Len()
	}
	if statements.Len() == 0 {
		return nil
	}
	results := tx.SendBatch(ctx, &statements)
	item := 0
	for k := range statements.Len() {
		for ends[item] <= k {
			item++
		}
		if _, err := results.Exec(); err != nil {
			_ = results.Close() // returns the same error
			return blamed(item, err)
		}
	}
	return results.Close()
}

func (q queuer) queue(statements *pgx.Batch) (err error) {
	defer panics.Recover(&err)
	return q(statements)
}

// blamed blames an error on an item if Postgres returned it for a statement of the item. Before pgx sends a batch, it
// prepares the statements and encodes the arguments. An error from there comes with the first result, whichever
// statement it is about. An error of the connection is about no item.
func blamed(item int, err error) error {
	if errors.As(err, new(*pgconn.PgError)) && !errors.As(err, new(pgx.ErrPreprocessingBatch)) {
		return &BatchItemError{item, err}
	}
	return err
}
