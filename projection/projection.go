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

// Handler writes what one event means into the read model, through tx. The runner commits the
// transaction together with the checkpoint, after a batch of events; the handler must neither
// commit nor roll it back, and have no effect outside it, since it may be called again. It must not
// change the event, which other projections are given too.
type Handler[E any] func(ctx context.Context, tx pgx.Tx, event eventstore.Event[E]) error

// Projection is a named read model, at one version, and what keeps it.
type Projection struct {
	name    string
	options Options
	sources []source
	types   []string        // of all sources, sorted
	stored  []string        // the same, and schemas above the first one: what releases may differ in
	known   map[string]bool // stored, and types that are retired
	names   *tableNames
	table   rowset.Table // nil unless it folds rows
	effects bool         // a subscription
}

// Options say how a projection is run. Nil and the zero value are the defaults.
type Options struct {
	// Version of the read model; 0 means 1. Raise it when the read model has to be made anew: the new
	// version is built beside the one that readers see, into tables of its own, and takes its place
	// when it has caught up.
	Version int
	// Partitions is how many parts of the keys are handled side by side, in one process or in
	// several; 0 means 1, which keeps all events in the order of positions. With more of them only the events of
	// one key are. It is fixed for a version.
	Partitions int
	// Tables are the names of the read model's tables, such as "bank.accounts". Readers find a view
	// under each of these names, which shows the table of the live version. Handlers write to the table of their own
	// version: in every statement that a handler sends with its transaction, "{bank.accounts}" stands for the table's
	// quoted name, as in DDL, in pgx.Identifier{"{bank.accounts}"} too. A value that has such a text in it must be a
	// parameter.
	Tables []string
	// DDL makes the tables, once for each version: SQL statements in which a table's name in braces
	// stands for the table of this version, such as
	//
	//	create table {bank.accounts} (account text primary key, balance bigint not null)
	//
	// Other objects need names that other versions do not use: leave the naming of indexes to Postgres.
	DDL string
	// Timeout bounds how long one event may be handled; 0 means 30 s.
	Timeout time.Duration
	// MaxAttempts is how often an event is tried before it becomes a dead letter, if nothing says that
	// trying again does not help; 0 means 3.
	MaxAttempts int
	// MaxParked is how many dead letters there may be, with those that wait behind them, before the
	// projection stops; 0 means 10,000.
	MaxParked int
	// StopAfter is a number of different keys. When events of so many keys fail one after another, with the same reason
	// and with no event handled in between, the handler is wrong and not the events: the projection stops. The
	// last one or two do not become dead letters. Each partition counts for itself; 0 means 10.
	StopAfter int
	// FromNow lets a new projection begin at the end of the log, as most subscriptions want to.
	FromNow bool
}

// HandlerSource is a kind of events and the handler for them: see [On], [OnKeyed] and [OnBatch].
type HandlerSource struct{ sources []source }

// source is a kind of events that a projection handles, and how.
type source struct {
	all     bool // of whatever types
	types   []string
	schemas []string // above the first one, with their types
	retired []string
	codec   any // the codec: the events of a page are decoded once for all who share it
	decode  func([]eventstore.Raw) []meaning
	key     func(meaning) string // of an event that has one; nil: the stream
	split   func(meaning) []part // sorted by key; nil if key says it
	handle  func(context.Context, pgx.Tx, meaning) error
	effect  func(context.Context, meaning) error
	batch   *batchHandler                                                          // in place of handle and effect
	values  func(meaning) ([]any, error)                                           // what the batch is to have of an event
	fold    func(row any, m meaning, done func(rowset.Outcome, error) error) error // of a table
}

// meaning is what a stored event means, for all sources with the same codec.
type meaning struct {
	index  int // in the page
	events any // a []eventstore.Event[E], usually of one
	err    error
}

// On says that a projection gives the events whose types are in the codec to handler. Events of one
// stream are handled in their order. It panics when one of them is nil, or the codec decodes no type.
func On[E any](c *codec.Codec[E], handler Handler[E]) HandlerSource {
	mustHave("On", c, given{"the handler", handler == nil})
	return on(c, nil, handler)
}

// OnKeyed is [On] for a read model whose rows are not those of streams: events with the same key are handled in
// their order, and wait for one another when one of them cannot be handled. The function must be pure
// and always return the same key for an event; "" is refused like an event that cannot be handled. It panics like [On],
// and when the key is nil.
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

// keyed lets a source find the key of each event, or its keys. An event that was split by an upcaster has those of all
// its parts.
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

// decode decodes an event with upcasters that may panic.
func decode[E any](c *codec.Codec[E], raw eventstore.Raw) (events []eventstore.Event[E], err error) {
	defer panics.Recover(&err)
	return c.Decode(raw)
}

// New returns a projection of the events of one or more sources, usually one for each kind of
// aggregate that feeds it:
//
//	projection.New("shop.items", nil, projection.On(stock.Codec, handleStock), projection.On(order.Codec, handleOrder))
//
// All its handlers get the events in the order of positions, or of their key if it has several
// partitions. They may read what the same projection has written for the same key, but not the
// tables of others, which are ahead or behind. With [Options.DDL] the runner makes the tables, and
// the statements of handlers name them in braces as the DDL does, see [Options.Tables]; without it they are the
// application's to create before the runner starts.
//
// A source or an event type that is added to a projection later gets events from its checkpoint
// on, not those before: [Runner.Status] says so, and to have all of them raise [Options.Version].
//
// New panics when the name is empty, has more than 250 bytes or a control character; when there is no source, or an
// event type has two; and when an option is out of bounds. The text names the option and its value.
func New(name string, options *Options, sources ...HandlerSource) *Projection {
	var all []source
	for _, s := range sources {
		all = append(all, orEmpty(s.sources)...)
	}
	return mustMake("New", name, options, all)
}

// orEmpty returns an empty source if there is none, which is refused later with its number.
func orEmpty(sources []source) []source {
	if len(sources) == 0 {
		return []source{{}}
	}
	return sources
}

// mustMake is newProjection for one of the functions that define projections, which panic.
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

// Types returns the stored names of the events that the projection is given, sorted: those in the codecs of its
// sources. It is empty for a subscription to all events.
func (p *Projection) Types() []string {
	if p.sources[0].all {
		return nil
	}
	return slices.Clone(p.types)
}

type batchKey struct{}

func infoOf(ctx context.Context) *batchInfo { return ctx.Value(batchKey{}).(*batchInfo) }

// batchInfo is what a handler can learn of its batch from the context.
type batchInfo struct {
	projection *Projection
	live       bool
	liveAt     []eventstore.Position // checkpoints of the live version, if this is another one
	item       *item
	catalog    *catalog.Catalog
	pool       *pgpool.Pool // nil while an append is what handles the event
}
