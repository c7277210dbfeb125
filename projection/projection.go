package projection

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/panics"
	"github.com/tidemark-es/tidemark/internal/pgpool"
	"github.com/tidemark-es/tidemark/projection/internal/catalog"
	"github.com/tidemark-es/tidemark/projection/internal/rowset"
)

// Handler writes what one event means into the read model, through tx. The runner commits the transaction together with
// the checkpoint, after a batch of events. The handler must not commit the transaction or roll it back. It must have no
// effect outside the transaction, because it may be called again for the same event. It must not change the event,
// because other projections are given the same one.
type Handler[E any] func(ctx context.Context, tx pgx.Tx, event eventstore.Event[E]) error

// Projection is a named read model at one version, with the handlers, folds or effects that keep it.
type Projection struct {
	name    string
	options Options
	sources []source
	types   []string        // of all sources, sorted
	stored  []string        // types, and schemas above 1: releases may differ in these
	known   map[string]bool // stored, and types that are retired
	names   *tableNames
	table   rowset.Table // nil if the projection does not fold rows
	effects bool         // the projection is a subscription
}

// Options say how a projection is run. Nil and the zero value give the defaults.
type Options struct {
	// Version of the read model; 0 means 1. Raise it when the read model must be rebuilt. The new version is built
	// beside the one that readers see, in tables of its own, and becomes the live version when it has caught up.
	Version int
	// Partitions is how many parts the keys are divided into. The parts are handled side by side, in one process or in
	// several. 0 means 1: all events are handled in the order of positions. With more than 1, only the events of one
	// key are handled in order. A version cannot change its number of partitions.
	Partitions int
	// Tables are the names of the read model's tables, such as "bank.accounts". Under each of these names readers find
	// a view that shows the table of the live version. Handlers write to the table of their own version. In every
	// statement that a handler sends with its transaction, and in DDL, "{bank.accounts}" stands for the quoted name of
	// that table. pgx.Identifier{"{bank.accounts}"} works too. A value that contains such a text must be a parameter.
	Tables []string
	// DDL makes the tables, once for each version. It is SQL in which a table's name in braces stands for the table of
	// this version, such as
	//
	//	create table {bank.accounts} (account text primary key, balance bigint not null)
	//
	// Other objects need names that no other version uses: let Postgres name indexes.
	DDL string
	// Timeout bounds how long one event may be handled; 0 means 30 s.
	Timeout time.Duration
	// MaxAttempts is how often an event is tried before it becomes a dead letter, unless its error says that another
	// attempt would fail too; 0 means 3.
	MaxAttempts int
	// MaxParked is how many parked events the projection may have before it stops: dead letters and the events that
	// wait behind them. 0 means 10,000.
	MaxParked int
	// StopAfter is a number of different keys; 0 means 10. When events of that many keys fail one after another for the
	// same reason, with no event handled in between, the handler is wrong and not the events. The projection then
	// stops. The last one or two of these events do not become dead letters. Each partition counts for itself.
	StopAfter int
	// FromNow lets a new projection begin at the end of the log. Most subscriptions want this.
	FromNow bool
}

// HandlerSource is a kind of events and the handler for them: see [On], [OnKeyed] and [OnBatch].
type HandlerSource struct{ sources []source }

// source is a kind of events that a projection handles, with the functions that handle them.
type source struct {
	all     bool // the source takes events of all types
	types   []string
	schemas []string // schemas above 1, with their types
	retired []string
	codec   any // the codec, as a key: the events of a page are decoded once for all sources with the same codec
	decode  func([]eventstore.Raw) []meaning
	key     func(meaning) string // of an event with one key; if key and split are nil, the stream is the key
	split   func(meaning) []part // sorted by key; it returns nil if key gives the key
	handle  func(context.Context, pgx.Tx, meaning) error
	effect  func(context.Context, meaning) error
	batch   *batchHandler                                                          // in place of handle and effect
	values  func(meaning) ([]any, error)                                           // the values that the batch gets for an event
	fold    func(row any, m meaning, done func(rowset.Outcome, error) error) error // of a table
}

// meaning is what a stored event means to all sources with the same codec.
type meaning struct {
	index  int // in the page
	events any // a []eventstore.Event[E], usually with one event
	err    error
}

// On says that a projection gives the events whose types are in the codec to handler. Events of one stream are handled
// in order. On panics when the codec or the handler is nil, or the codec decodes no type.
func On[E any](c *codec.Codec[E], handler Handler[E]) HandlerSource {
	mustHave("On", c, given{"the handler", handler == nil})
	return on(c, nil, handler)
}

// OnKeyed is [On] for a read model whose rows do not belong to single streams. Events with the same key are handled in
// order. When an event cannot be handled, the later events with the same key wait behind it. The function key must be
// pure and must always return the same key for an event. An event with the key "" cannot be handled. OnKeyed panics
// like [On], and when key is nil.
func OnKeyed[E any](c *codec.Codec[E], key func(eventstore.Event[E]) string, handler Handler[E]) HandlerSource {
	mustHave("OnKeyed", c, given{"the key", key == nil}, given{"the handler", handler == nil})
	return on(c, key, handler)
}

func on[E any](c *codec.Codec[E], key func(eventstore.Event[E]) string, handler Handler[E]) HandlerSource {
	s := newSource(c)
	if key != nil {
		s = keyed(s, key, nil)
	}
	s.handle = func(ctx context.Context, tx pgx.Tx, d meaning) error {
		for _, event := range d.events.([]eventstore.Event[E]) {
			if err := handler(ctx, tx, event); err != nil {
				return err
			}
		}
		return nil
	}
	return HandlerSource{[]source{s}}
}

func newSource[E any](c *codec.Codec[E]) source {
	s := source{types: c.Types(), retired: c.Retired(), codec: c}
	handled := make(map[string]bool)
	for _, t := range s.types {
		handled[t] = true
		for _, schema := range c.Schemas(t) {
			if schema > 1 {
				s.schemas = append(s.schemas, fmt.Sprintf("%s, schema %d", t, schema))
			}
		}
	}
	s.decode = func(events []eventstore.Raw) []meaning {
		all := make([]meaning, 0, len(events))
		for i, raw := range events {
			if !handled[raw.Type] {
				continue
			}
			events, err := decode(c, raw)
			if len(events) > 0 || err != nil {
				all = append(all, meaning{i, events, err})
			}
		}
		return all
	}
	return s
}

// part is what an event means for one of its keys.
type part struct {
	key     string
	meaning meaning
}

// keyed gives a source the function that finds the key of each event, or the function that finds its keys. An event
// that an upcaster has split has the keys of all its parts.
func keyed[E any](s source, key func(eventstore.Event[E]) string, keys func(eventstore.Event[E]) []string) source {
	if key != nil {
		s.key = func(d meaning) string { return key(d.events.([]eventstore.Event[E])[0]) }
		keys = func(e eventstore.Event[E]) []string { return []string{key(e)} }
	}
	type place struct {
		key   string
		event int
	}
	s.split = func(d meaning) []part {
		events := d.events.([]eventstore.Event[E])
		if len(events) == 1 && s.key != nil {
			return nil
		}
		var places []place
		for n, event := range events {
			for _, k := range keys(event) {
				places = append(places, place{k, n})
			}
		}
		slices.SortFunc(places, func(a, b place) int { return cmp.Or(cmp.Compare(a.key, b.key), a.event-b.event) })
		parts := make([]part, 0, len(places))
		for rest := slices.Compact(places); len(rest) > 0; {
			p := part{rest[0].key, d}
			var own []eventstore.Event[E]
			for ; len(rest) > 0 && rest[0].key == p.key; rest = rest[1:] {
				own = append(own, events[rest[0].event])
			}
			if len(own) < len(events) {
				p.meaning.events = own
			}
			parts = append(parts, p)
		}
		return parts
	}
	return s
}

// decode decodes an event. A panic of an upcaster becomes an error.
func decode[E any](c *codec.Codec[E], raw eventstore.Raw) (events []eventstore.Event[E], err error) {
	defer panics.Recover(&err)
	return c.Decode(raw)
}

// New returns a projection of the events of one or more sources. There is usually one source for each kind of aggregate
// whose events the projection handles:
//
//	projection.New("shop.items", nil, projection.On(stock.Codec, handleStock), projection.On(order.Codec, handleOrder))
//
// All its handlers get the events in the order of positions. With several partitions, this holds only for the events of
// one key. Handlers may read what the same projection has written for the same key. They must not read the tables of
// other projections, which are ahead or behind. With [Options.DDL] the runner makes the tables, and the statements of
// handlers name them in braces, see [Options.Tables]. Without it the application must create the tables before the
// runner starts.
//
// A source or an event type that is added to a projection later gets the events after its checkpoint, and not those
// before. [Runner.Status] reports such types. To handle all of their events, raise [Options.Version].
//
// New panics in these cases: the name is empty, has more than 250 bytes or has a control character; there is no source;
// an event type has two sources; an option is out of bounds. The text names the option and its value.
func New(name string, options *Options, sources ...HandlerSource) *Projection {
	var all []source
	for _, s := range sources {
		all = append(all, orEmpty(s.sources)...)
	}
	return mustMake("New", name, options, all)
}

// orEmpty returns an empty source if there is none. Validation refuses the empty source later, and names its number.
func orEmpty(sources []source) []source {
	if len(sources) == 0 {
		return []source{{}}
	}
	return sources
}

// mustMake is newProjection for the exported functions that define projections: it panics on an error.
func mustMake(function, name string, options *Options, sources []source) *Projection {
	p, err := newProjection(name, options, sources)
	if err != nil {
		panic(fmt.Sprintf("projection.%s: projection %q: %v", function, name, err))
	}
	return p
}

func newProjection(name string, options *Options, sources []source) (*Projection, error) {
	if err := validName(name); err != nil {
		return nil, err
	}
	if err := validSources(sources); err != nil {
		return nil, err
	}
	p := &Projection{name: name, options: options.withDefaults(), sources: slices.Clone(sources)}
	p.options.Tables = slices.Clone(p.options.Tables)
	p.names = newTableNames(p.options.Tables, p.options.Version)
	if err := p.options.validate(); err != nil {
		return nil, err
	}
	var retired []string
	for _, s := range sources {
		p.types = append(p.types, s.types...)
		p.stored = append(p.stored, s.schemas...)
		retired = append(retired, s.retired...)
	}
	p.types = slices.Compact(slices.Sorted(slices.Values(p.types)))
	p.stored = slices.Compact(slices.Sorted(slices.Values(append(p.stored, p.types...))))
	p.known = make(map[string]bool)
	for _, name := range append(retired, p.stored...) {
		p.known[name] = true
	}
	return p, nil
}

func (o *Options) withDefaults() Options {
	var d Options
	if o != nil {
		d = *o
	}
	if d.Version == 0 {
		d.Version = 1
	}
	if d.Partitions == 0 {
		d.Partitions = 1
	}
	if d.Timeout == 0 {
		d.Timeout = 30 * time.Second
	}
	if d.MaxAttempts == 0 {
		d.MaxAttempts = 3
	}
	if d.MaxParked == 0 {
		d.MaxParked = 10_000
	}
	if d.StopAfter == 0 {
		d.StopAfter = 10
	}
	return d
}

// Name returns the projection's name.
func (p *Projection) Name() string { return p.name }

// Version returns the version of its read model.
func (p *Projection) Version() int { return p.options.Version }

// Types returns the stored names of the events that the projection is given, sorted. They are the types in the codecs
// of its sources. The result is nil for a subscription to all events.
func (p *Projection) Types() []string {
	if p.sources[0].all {
		return nil
	}
	return slices.Clone(p.types)
}

type batchKey struct{}

func infoOf(ctx context.Context) *batchInfo { return ctx.Value(batchKey{}).(*batchInfo) }

// batchInfo is what a handler can learn about its batch from the context.
type batchInfo struct {
	projection *Projection
	live       bool
	liveAt     []eventstore.Position // checkpoints of the live version; empty if this version is live
	item       *item
	catalog    *catalog.Catalog
	pool       *pgpool.Pool // nil while an append handles the event
}
