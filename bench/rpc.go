package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/multiformats/go-multibase"
)

const (
	// atOnce is how many senders there are in a burst.
	atOnce = 16
	// quiet is how long nothing may arrive before what is missing is lost.
	quiet = 2 * time.Second
)

// load makes calls, so many at once, and returns how long each took, how long
// all of them took, and how many failed.
func load(calls, atOnce int, call func() error) (each []time.Duration, all time.Duration, failed int) {
	each = make([]time.Duration, calls)
	var next, failures atomic.Int64
	var senders sync.WaitGroup
	began := time.Now()
	for range atOnce {
		senders.Go(func() {
			for i := next.Add(1) - 1; i < int64(calls); i = next.Add(1) - 1 {
				began := time.Now()
				if call() != nil {
					failures.Add(1)
				}
				each[i] = time.Since(began)
			}
		})
	}
	senders.Wait()
	return each, time.Since(began), int(failures.Load())
}

// arrivals counts the distinct messages of a stream, by author and sequence number.
type arrivals struct {
	cancel context.CancelFunc
	ended  chan error

	mu    sync.Mutex
	known map[string]bool
	grown chan struct{}
}

// follow counts what arrives on a stream of messages, kubo's or npp's.
func follow(ctx context.Context, n *node, path string, query url.Values) *arrivals {
	ctx, cancel := context.WithCancel(ctx)
	a := &arrivals{cancel: cancel, ended: make(chan error, 1), known: make(map[string]bool), grown: make(chan struct{}, 1)}
	go func() { a.ended <- a.read(ctx, n, path, query) }()
	return a
}

func (a *arrivals) read(ctx context.Context, n *node, path string, query url.Values) error {
	resp, err := n.post(ctx, path, query, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for d := json.NewDecoder(bufio.NewReaderSize(resp.Body, 1<<16)); ; {
		var m struct{ From, Seqno string }
		if err := d.Decode(&m); err != nil {
			return err
		}
		a.mu.Lock()
		a.known[m.From+" "+m.Seqno] = true
		a.mu.Unlock()
		select {
		case a.grown <- struct{}{}:
		default:
		}
	}
}

func (a *arrivals) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.known)
}

// settle waits until there are want messages, or nothing has come for a while,
// and returns how many there are and when the last came.
func (a *arrivals) settle(ctx context.Context, want int) (count int, last time.Time, err error) {
	last = time.Now()
	for count = a.count(); count < want; count = a.count() {
		select {
		case <-a.grown:
			last = time.Now()
		case <-time.After(quiet):
			return a.count(), last, nil
		case err := <-a.ended:
			return count, last, fmt.Errorf("the stream of messages ended: %w", err)
		case <-ctx.Done():
			return count, last, ctx.Err()
		}
	}
	return count, last, nil
}

// side is a way of sending messages from one daemon to another.
type side struct {
	from, to *node
	send     func() error
	arrived  *arrivals
}

func (s *side) stop() {
	s.arrived.cancel()
	s.from.stop()
	s.to.stop()
}

// newSide starts two daemons. What sendPath sends, with that query, is followed
// on the recipient's stream.
func newSide(ctx context.Context, b *bench, bin string, set settings, queries func(to *node) (send, arrive url.Values), sendPath, arrivePath string) (*side, error) {
	from, to, err := startPair(ctx, b, bin, set)
	if err != nil {
		return nil, err
	}
	send, arrive := queries(to)
	data := payload()
	return &side{
		from: from,
		to:   to,
		send: func() error {
			_, err := from.call(ctx, sendPath, send, data)
			return err
		},
		arrived: follow(ctx, to, arrivePath, arrive),
	}, nil
}

// stockSide is `ipfs pubsub pub` between stock daemons.
func stockSide(ctx context.Context, b *bench, topic string) (*side, error) {
	s, err := newSide(ctx, b, b.stock, settings{"Pubsub.Enabled": true}, func(*node) (send, arrive url.Values) {
		return topicQuery(topic), topicQuery(topic)
	}, "pubsub/pub", "pubsub/sub")
	return s.subscribed(ctx, topic, err)
}

// nppTopicSide is `ipfs npp send --topic`.
func nppTopicSide(ctx context.Context, b *bench, topic string) (*side, error) {
	s, err := newSide(ctx, b, b.npp, nil, func(*node) (send, arrive url.Values) {
		return url.Values{"topic": {topic}}, url.Values{"topic": {topic}}
	}, "npp/send", "npp/listen")
	return s.subscribed(ctx, topic, err)
}

// nppSide is `ipfs npp send` to a peer.
func nppSide(ctx context.Context, b *bench) (*side, error) {
	return newSide(ctx, b, b.npp, nil, func(to *node) (send, arrive url.Values) {
		return url.Values{"arg": {to.id}}, url.Values{"since": {"all"}}
	}, "npp/send", "npp/listen")
}

// topicQuery is a topic as kubo's pubsub calls take it.
func topicQuery(topic string) url.Values {
	text, err := multibase.Encode(multibase.Base64url, []byte(topic))
	if err != nil {
		panic(err) // base64url is a base that multibase knows
	}
	return url.Values{"arg": {text}}
}

// subscribed waits, unless err stands in the way, until the sender knows that
// a peer is subscribed to topic.
func (s *side) subscribed(ctx context.Context, topic string, err error) (*side, error) {
	if err != nil {
		return nil, err
	}
	err = await(ctx, "a subscriber of "+topic, func() (bool, error) {
		answer, err := s.from.call(ctx, "pubsub/peers", topicQuery(topic), nil)
		if err != nil {
			return false, err
		}
		var peers struct{ Strings []string }
		err = json.Unmarshal(answer, &peers)
		return len(peers.Strings) > 0, err
	})
	if err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// outcome is what became of a number of calls.
type outcome struct {
	calls, failed, arrived int
	p50                    time.Duration // of a call
	answered, arriving     float64       // calls without an error, and messages, a second
}

func (o outcome) lost() int { return o.calls - o.failed - o.arrived }

// run makes the calls, so many at once, and waits for what they send.
func (s *side) run(ctx context.Context, calls, atOnce int) (outcome, error) {
	before := s.arrived.count()
	began := time.Now()
	each, all, failed := load(calls, atOnce, s.send)
	count, last, err := s.arrived.settle(ctx, before+calls-failed)
	o := outcome{calls: calls, failed: failed, arrived: count - before, p50: median(each)}
	o.answered = float64(calls-failed) / all.Seconds()
	if o.arrived > 0 {
		o.arriving = float64(o.arrived) / last.Sub(began).Seconds()
	}
	return o, err
}

// takeTurns makes rounds of calls on each side in turns.
func takeTurns(ctx context.Context, sides []*side, rounds, calls, atOnce int) ([][]outcome, error) {
	out := make([][]outcome, len(sides))
	for range rounds {
		for i, s := range sides {
			o, err := s.run(ctx, calls, atOnce)
			if err != nil {
				return nil, err
			}
			out[i] = append(out[i], o)
		}
	}
	return out, nil
}

// medianOf is the median of a figure of the outcomes.
func medianOf[T int | float64 | time.Duration](os []outcome, figure func(outcome) T) T {
	var values []T
	for _, o := range os {
		values = append(values, figure(o))
	}
	return median(values)
}

func p50Of(o outcome) time.Duration { return o.p50 }
func answeredOf(o outcome) float64  { return o.answered }
func arrivingOf(o outcome) float64  { return o.arriving }
func failedOf(o outcome) int        { return o.failed }
func lostOf(o outcome) int          { return o.lost() }
func perSecond(v float64) string    { return fmt.Sprintf("%.0f /s", v) }
func share(n, of int) string        { return fmt.Sprintf("%d (%.1f %%)", n, 100*float64(n)/float64(of)) }

// speed adds the rows about how fast outcomes of npp and stock are.
func (s *section) speed(kind string, npp, stock []outcome) {
	a, b := medianOf(npp, p50Of), medianOf(stock, p50Of)
	s.row(kind+": p50 of a call", ms(a), ms(b), ratio(a, b))
	x, y := medianOf(npp, answeredOf), medianOf(stock, answeredOf)
	s.row(kind+": calls that succeed", perSecond(x), perSecond(y), ratio(x, y))
	x, y = medianOf(npp, arrivingOf), medianOf(stock, arrivingOf)
	s.row(kind+": messages that arrive", perSecond(x), perSecond(y), ratio(x, y))
}

// benchRPC measures `npp send` beside `pubsub pub`, both by RPC.
func benchRPC(ctx context.Context, b *bench) (*section, error) {
	npp, err := nppSide(ctx, b)
	if err != nil {
		return nil, err
	}
	defer npp.stop()
	stock, err := stockSide(ctx, b, "bench")
	if err != nil {
		return nil, err
	}
	defer stock.stop()
	sides := []*side{npp, stock}

	const inTurn, inBurst = 500, 1000
	rounds := b.pick(9, 3)
	if _, err := takeTurns(ctx, sides, 1, 100, 1); err != nil { // to warm up
		return nil, err
	}
	turns, err := takeTurns(ctx, sides, rounds, inTurn, 1)
	if err != nil {
		return nil, err
	}
	bursts, err := takeTurns(ctx, sides, rounds, inBurst, atOnce)
	if err != nil {
		return nil, err
	}
	before, err := npp.listed(ctx)
	if err != nil {
		return nil, err
	}
	many := b.pick(10_000, 2000)
	total, err := takeTurns(ctx, sides, 1, many, atOnce)
	if err != nil {
		return nil, err
	}
	after, err := npp.listed(ctx)
	if err != nil {
		return nil, err
	}
	n, st := total[0][0], total[1][0]
	n.arrived = after - before

	s := &section{
		title: "`send` by RPC beside `pubsub pub`",
		how: fmt.Sprintf("Two daemons with npp, two stock daemons with `Pubsub.Enabled`; messages of %d bytes as multipart bodies over HTTP connections that are kept, "+
			"a reader on the recipient's stream (`npp/listen`, `pubsub/sub`). `npp send` answers when the message is on the recipient's disk, `pubsub pub` when it was handed to the router. "+
			"%d rounds of %d calls in sequence and of %d calls %d at once, then %d calls %d at once. What npp's recipient got is counted in `npp/messages/ls`.",
			messageBytes, rounds, inTurn, inBurst, atOnce, many, atOnce),
	}
	s.row("", "`npp/send`", "`pubsub/pub`", "ratio")
	s.speed("in sequence", turns[0], turns[1])
	s.speed(fmt.Sprintf("%d at once", atOnce), bursts[0], bursts[1])
	s.row(fmt.Sprintf("of %d: calls that fail", many), share(n.failed, many), share(st.failed, many), "")
	s.row(fmt.Sprintf("of %d: accepted and lost", many), share(n.lost(), many), share(st.lost(), many), "")
	s.row(fmt.Sprintf("of %d: arrived", many), share(n.arrived, many), share(st.arrived, many), "")

	a, z := medianOf(turns[0], p50Of), medianOf(turns[1], p50Of)
	s.verdict(a <= z, "in sequence `npp/send` is to be no slower than `pubsub/pub`; its p50 is %s of it.", ratio(a, z))
	x, y := medianOf(bursts[0], answeredOf), medianOf(bursts[1], answeredOf)
	s.verdict(x >= y, "%d at once as many calls a second are to succeed; it is %s times as many.", atOnce, ratio(x, y))
	s.verdict(n.arrived == many, "of %d messages sent %d at once none is to be lost; %d are missing, with pubsub %d.",
		many, atOnce, many-n.arrived, many-st.arrived)
	return s, nil
}

// listed counts the distinct messages in the recipient's store.
func (s *side) listed(ctx context.Context) (int, error) {
	resp, err := s.to.post(ctx, "npp/messages/ls", nil, nil)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	ids := make(map[string]bool)
	for d := json.NewDecoder(bufio.NewReader(resp.Body)); d.More(); {
		var m struct{ ID string }
		if err := d.Decode(&m); err != nil {
			return 0, err
		}
		ids[m.ID] = true
	}
	return len(ids), nil
}

// benchTopic measures bursts on a topic.
func benchTopic(ctx context.Context, b *bench) (*section, error) {
	npp, err := nppTopicSide(ctx, b, "bench")
	if err != nil {
		return nil, err
	}
	defer npp.stop()
	stock, err := stockSide(ctx, b, "bench")
	if err != nil {
		return nil, err
	}
	defer stock.stop()

	const inBurst = 1000
	rounds := b.pick(7, 3)
	bursts, err := takeTurns(ctx, []*side{npp, stock}, rounds, inBurst, atOnce)
	if err != nil {
		return nil, err
	}
	s := &section{
		title: fmt.Sprintf("Bursts of %d on a topic", inBurst),
		how: fmt.Sprintf("`npp send --topic` between two daemons with npp, `pubsub pub` between two stock daemons with `Pubsub.Enabled`, by RPC, %d at once, "+
			"with a reader on the recipient's stream (`npp/listen?topic=`, `pubsub/sub`); %d bursts each, in turns.", atOnce, rounds),
	}
	s.row("", "`npp/send?topic=`", "`pubsub/pub`", "ratio")
	s.speed("burst", bursts[0], bursts[1])
	s.row("calls that fail, of "+fmt.Sprint(inBurst), share(medianOf(bursts[0], failedOf), inBurst), share(medianOf(bursts[1], failedOf), inBurst), "")
	s.row("accepted and lost, of "+fmt.Sprint(inBurst), share(medianOf(bursts[0], lostOf), inBurst), share(medianOf(bursts[1], lostOf), inBurst), "")
	missing := [2]int{}
	for i := range bursts {
		for _, o := range bursts[i] {
			missing[i] += o.calls - o.arrived
		}
	}
	all := rounds * inBurst
	s.row("did not arrive, in all", share(missing[0], all), share(missing[1], all), "")
	s.verdict(missing[0] == 0, "a burst of %d is to arrive whole between two daemons with npp; of %d messages %d are missing, with stock %d.",
		inBurst, all, missing[0], missing[1])
	return s, nil
}
