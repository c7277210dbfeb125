package eventstoretest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"golang.org/x/sync/errgroup"

	"github.com/tidemark-es/tidemark/eventstore"
)

// testLinearizable lets clients append to the same streams and read them, all at once. There must be one order of all
// their calls that explains the answers: each call takes effect between its start and its return, and the same calls
// made one after the other give the same answers.
func testLinearizable(t *testing.T, s Store) {
	if err := linearizable(t.Context(), s); err != nil {
		t.Error(err)
	}
}

// request is a call of a client: an append of some events to a stream, or a question about the stream.
type request struct {
	stream   eventstore.StreamID
	kind     string // append, read or stat
	expected eventstore.Version
	data     []string // of the events to append
}

// answer is the answer to a request: where the stream ends and, for a read, the payloads of its events.
type answer struct {
	at       eventstore.Receipt
	conflict bool
	held     []string
}

// linearizable runs the clients. It returns an error if no order explains their answers.
func linearizable(ctx context.Context, s Store) error {
	const clients, each, streams, patience = 5, 30, 3, 20 * time.Second
	histories := make([][]porcupine.Operation, clients)
	start := time.Now()
	var running errgroup.Group
	for client := range clients {
		random := rand.New(rand.NewPCG(uint64(client), 0))
		running.Go(func() error {
			known := make(map[eventstore.StreamID]eventstore.Version) // the last version the client saw
			for n := range each {
				asked := draw(random, fmt.Sprintf("%d", client*each+n), known, streams)
				call := time.Since(start)
				got, err := ask(ctx, s, asked)
				if err != nil {
					return err
				}
				histories[client] = append(histories[client], porcupine.Operation{
					ClientId: client, Input: asked, Call: int64(call), Output: got, Return: int64(time.Since(start)),
				})
				known[asked.stream] = got.at.Version
			}
			return nil
		})
	}
	if err := running.Wait(); err != nil {
		return err
	}
	history := slices.Concat(histories...)
	switch result := porcupine.CheckOperationsTimeout(streamModel, history, patience); result {
	case porcupine.Ok:
		return nil
	case porcupine.Unknown:
		return fmt.Errorf("no order was found in %s: make the histories shorter", patience)
	}
	var said strings.Builder
	slices.SortFunc(history, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	for _, op := range history {
		fmt.Fprintf(&said, "\n%8d to %8d µs, client %d: %s", op.Call/1000, op.Return/1000, op.ClientId, describe(op.Input, op.Output))
	}
	return fmt.Errorf("the answers fit no order:%s", &said)
}

// draw chooses the next request of a client. An append often expects the version that the client saw last, so that it
// often succeeds and often conflicts.
func draw(random *rand.Rand, name string, known map[eventstore.StreamID]eventstore.Version, streams int) request {
	asked := request{stream: stream(fmt.Sprint(random.IntN(streams))), kind: "append"}
	switch random.IntN(8) {
	case 0, 1:
		asked.kind = "read"
	case 2:
		asked.kind = "stat"
	case 3:
		asked.expected = eventstore.NoStream
	case 4:
		asked.expected = eventstore.Any
	default:
		asked.expected = known[asked.stream]
	}
	if asked.kind == "append" {
		for n := range 1 + random.IntN(2) {
			asked.data = append(asked.data, fmt.Sprintf(`"%s.%d"`, name, n))
		}
	}
	return asked
}

// ask sends a request to the store.
func ask(ctx context.Context, s Store, asked request) (got answer, err error) {
	switch asked.kind {
	case "append":
		var events []eventstore.Draft
		for _, data := range asked.data {
			events = append(events, eventstore.Draft{Type: "thing.happened", Data: []byte(data)})
		}
		got.at, err = s.Append(ctx, asked.stream, asked.expected, events...)
		var conflict *eventstore.ConflictError
		if errors.As(err, &conflict) {
			return answer{conflict: true, at: eventstore.Receipt{Version: conflict.Actual}}, nil
		}
	case "stat":
		var info eventstore.StreamInfo
		info, err = s.Stat(ctx, asked.stream)
		got.at = eventstore.Receipt{Version: info.Version, Position: info.Position}
	case "read":
		for event, err := range s.Read(ctx, asked.stream, eventstore.ReadOptions{}) {
			if err != nil {
				return got, err
			}
			got.held = append(got.held, string(event.Data))
			got.at = eventstore.Receipt{Version: event.Version, Position: event.Position}
		}
	}
	return got, err
}

// streamState is the state of one stream.
type streamState struct {
	at   eventstore.Receipt // of the last event
	held string             // the payloads; a string, so that states can be compared
}

// streamModel describes how a stream answers requests that are made one after the other.
var streamModel = porcupine.Model{
	Partition: func(history []porcupine.Operation) (parts [][]porcupine.Operation) {
		byStream := make(map[eventstore.StreamID][]porcupine.Operation)
		for _, op := range history {
			id := op.Input.(request).stream
			byStream[id] = append(byStream[id], op)
		}
		for _, part := range byStream {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() any { return streamState{} },
	Step: func(state, input, output any) (bool, any) {
		return step(state.(streamState), input.(request), output.(answer))
	},
	DescribeOperation: describe,
}

// step reports whether a stream in this state may give this answer, and returns its state after that.
func step(before streamState, asked request, got answer) (bool, streamState) {
	if asked.kind != "append" {
		return got.at == before.at && (asked.kind == "stat" || strings.Join(got.held, "") == before.held), before
	}
	fits := asked.expected == before.at.Version || asked.expected == eventstore.Any
	if got.conflict {
		return !fits && got.at.Version == before.at.Version, before
	}
	end := before.at.Version + eventstore.Version(len(asked.data))
	return fits && got.at.Version == end && got.at.Position > before.at.Position,
		streamState{at: got.at, held: before.held + strings.Join(asked.data, "")}
}

func describe(input, output any) string {
	asked, got := input.(request), output.(answer)
	switch {
	case asked.kind != "append":
		return fmt.Sprintf("%s %s: %+v %s", asked.kind, asked.stream, got.at, got.held)
	case got.conflict:
		return fmt.Sprintf("append %s to %s at %s: conflict, it is at %s", asked.data, asked.stream, asked.expected, got.at.Version)
	}
	return fmt.Sprintf("append %s to %s at %s: %+v", asked.data, asked.stream, asked.expected, got.at)
}
