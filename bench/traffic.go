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

	"github.com/newpieceplease/npp/message"
	"github.com/newpieceplease/npp/test/ipfs"
)

const (
	// atOnce is the number of senders in a burst.
	atOnce = 16
	// quiet is how long nothing may arrive before a missing message is lost.
	quiet = 2 * time.Second
)

// load makes calls, atOnce at a time. It returns the duration of each call and
// of all of them, and the number of failures.
func load(calls, atOnce int, call func() error) (took []time.Duration, all time.Duration, failed int) {
	took = make([]time.Duration, calls)
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
				took[i] = time.Since(began)
			}
		})
	}
	senders.Wait()
	return took, time.Since(began), int(failures.Load())
}

// arrivals counts the distinct messages of a stream, by author and sequence
// number.
type arrivals struct {
	cancel context.CancelFunc
	ended  chan error

	mu    sync.Mutex
	known map[string]bool
	grown chan struct{}
}

// newArrivals counts the messages of a stream, kubo's or npp's.
func newArrivals(ctx context.Context, n *node, follow request) *arrivals {
	ctx, cancel := context.WithCancel(ctx)
	a := &arrivals{cancel: cancel, ended: make(chan error, 1), known: make(map[string]bool), grown: make(chan struct{}, 1)}
	go func() { a.ended <- a.read(ctx, n, follow) }()
	return a
}

func (a *arrivals) read(ctx context.Context, n *node, follow request) error {
	resp, err := n.rpc.Stream(ctx, follow.path, follow.query, nil)
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

// settle waits until there are want messages, or until nothing has arrived for
// a while. It returns their number and the time of the last.
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

// side is a way to send messages from one daemon to another.
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

// request is a call and its query.
type request struct {
	path  string
	query url.Values
}

// newSide sends with one call and follows the arrivals with another.
func newSide(ctx context.Context, from, to *node, send, follow request) *side {
	data := payload()
	return &side{
		from: from,
		to:   to,
		send: func() error {
			_, err := from.rpc.Call(ctx, send.path, send.query, data)
			return err
		},
		arrived: newArrivals(ctx, to, follow),
	}
}

// stockSide is `ipfs pubsub pub` between stock daemons.
func stockSide(ctx context.Context, b *bench, topic string) (*side, error) {
	from, to, err := startPair(ctx, b, b.stock, ipfs.Config{"Pubsub.Enabled": true})
	if err != nil {
		return nil, err
	}
	query := topicQuery(topic)
	return newSide(ctx, from, to, request{"pubsub/pub", query}, request{"pubsub/sub", query}).subscribed(ctx, topic)
}

// nppTopicSide is `ipfs npp send --topic`.
func nppTopicSide(ctx context.Context, b *bench, topic string) (*side, error) {
	from, to, err := startPair(ctx, b, b.npp, nil)
	if err != nil {
		return nil, err
	}
	query := url.Values{"topic": {topic}}
	return newSide(ctx, from, to, request{"npp/send", query}, request{"npp/listen", query}).subscribed(ctx, topic)
}

// nppSide is `ipfs npp send` to a peer.
func nppSide(ctx context.Context, b *bench) (*side, error) {
	from, to, err := startPair(ctx, b, b.npp, nil)
	if err != nil {
		return nil, err
	}
	return newSide(ctx, from, to, request{"npp/send", url.Values{"arg": {to.id}}},
		request{"npp/listen", url.Values{"since": {"all"}}}), nil
}

// topicQuery returns a topic in the form of kubo's pubsub calls.
func topicQuery(topic string) url.Values {
	text, err := multibase.Encode(multibase.Base64url, []byte(topic))
	if err != nil {
		panic(err) // multibase has base64url
	}
	return url.Values{"arg": {text}}
}

// subscribed waits until the sender knows that a peer is subscribed to topic.
func (s *side) subscribed(ctx context.Context, topic string) (*side, error) {
	err := await(ctx, "a subscriber of "+topic, func() (bool, error) {
		answer, err := s.from.rpc.Call(ctx, "pubsub/peers", topicQuery(topic), nil)
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

// outcome is the outcome of a number of calls.
type outcome struct {
	calls, failed, arrived int
	p50                    time.Duration // of a call
	answered, arriving     float64       // calls without an error, and messages, per second
}

// run makes calls, atOnce at a time, and waits for the messages that they send.
func (s *side) run(ctx context.Context, calls, atOnce int) (outcome, error) {
	before := s.arrived.count()
	began := time.Now()
	took, all, failed := load(calls, atOnce, s.send)
	count, last, err := s.arrived.settle(ctx, before+calls-failed)
	o := outcome{calls: calls, failed: failed, arrived: count - before, p50: median(took)}
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

// each returns one figure of every outcome.
func each[T int | float64 | time.Duration](outcomes []outcome, figure func(outcome) T) []T {
	values := make([]T, len(outcomes))
	for i, o := range outcomes {
		values[i] = figure(o)
	}
	return values
}

func p50(o outcome) time.Duration { return o.p50 }
func answered(o outcome) float64  { return o.answered }
func arriving(o outcome) float64  { return o.arriving }
func failed(o outcome) int        { return o.failed }
func lost(o outcome) int          { return o.calls - o.failed - o.arrived }
func missing(o outcome) int       { return o.calls - o.arrived }

// speed adds the rows on how fast npp and stock are. It returns the ratios of
// the p50s and of the calls that succeed.
func (s *section) speed(kind string, npp, stock []outcome) (slower, more []float64) {
	a, b := each(npp, p50), each(stock, p50)
	slower = ratios(a, b)
	s.row(kind+": p50 of a call", ms(median(a)), ms(median(b)), ratio(slower), spread(slower))
	for _, rate := range []struct {
		name   string
		figure func(outcome) float64
	}{{"messages that arrive", arriving}, {"calls that succeed", answered}} {
		a, b := each(npp, rate.figure), each(stock, rate.figure)
		more = ratios(a, b)
		s.row(kind+": "+rate.name, fmt.Sprintf("%.0f /s", median(a)), fmt.Sprintf("%.0f /s", median(b)), ratio(more), spread(more))
	}
	return slower, more
}

// losses adds the rows on missing messages, over all outcomes together.
func (s *section) losses(npp, stock []outcome) {
	calls := sum(each(npp, func(o outcome) int { return o.calls }))
	for _, loss := range []struct {
		name   string
		figure func(outcome) int
	}{{"calls that fail", failed}, {"accepted but lost", lost}, {"did not arrive", missing}} {
		s.row(fmt.Sprintf("of %d: %s", calls, loss.name), share(sum(each(npp, loss.figure)), calls), share(sum(each(stock, loss.figure)), calls), "", "")
	}
}

func sum(values []int) (total int) {
	for _, v := range values {
		total += v
	}
	return total
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

	const inTurn, inBurst = 300, 1000
	rounds := b.pick(21, 7)
	if _, err := takeTurns(ctx, sides, 1, 200, 1); err != nil { // to warm up
		return nil, err
	}
	turns, err := takeTurns(ctx, sides, rounds, inTurn, 1)
	if err != nil {
		return nil, err
	}
	burstRounds := b.pick(9, 3)
	bursts, err := takeTurns(ctx, sides, burstRounds, inBurst, atOnce)
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
	total[0][0].arrived = after - before
	limit := message.DefaultLimits().MaxPerSecond

	s := &section{
		title: "`send` by RPC beside `pubsub pub`",
		how: fmt.Sprintf("Two daemons with npp, two stock daemons with `Pubsub.Enabled`; messages of %d bytes as multipart bodies over HTTP connections that are kept, "+
			"a reader on the recipient's stream (`npp/listen`, `pubsub/sub`). There are %d rounds of %d calls in sequence, %d rounds of %d calls %d at once, then %d calls %d at once; "+
			"of the last, `npp/messages/ls` counts those that reached npp's recipient.\n\n"+
			"The two calls do different work. `npp send` returns when the recipient's daemon has the message on its disk and has acknowledged it. `pubsub pub` returns when the "+
			"router of the sender's own daemon has accepted the message, which also costs one sync (of the author's last sequence number), but no round trip to the recipient; its p50 includes failed calls. "+
			"npp's recipient accepts %d messages per second from one peer, after a burst of %d, by the default of `MaxPerSecond`.",
			messageBytes, rounds, inTurn, burstRounds, inBurst, atOnce, many, atOnce, limit, 2*limit),
	}
	s.row("", "`npp/send`", "`pubsub/pub`", "ratio", "middle half")
	slower, _ := s.speed("in sequence", turns[0], turns[1])
	_, more := s.speed(fmt.Sprintf("%d at once", atOnce), bursts[0], bursts[1])
	s.speed(fmt.Sprintf("%d, %d at once", many, atOnce), total[0], total[1])
	s.losses(total[0], total[1])
	s.verdict(median(slower) <= 1, "in sequence, `npp/send` is no slower than `pubsub/pub`; the ratio of the p50s is %s, including the round trip to the recipient and its disk.", ratio(slower))
	s.verdict(median(more) >= 1, "%d at once, at least as many calls per second succeed; %s times as many do.", atOnce, ratio(more))
	s.verdict(missing(total[0][0]) == 0, "of %d messages sent %d at once, none is lost; %d are missing, with pubsub %d.",
		many, atOnce, missing(total[0][0]), missing(total[1][0]))
	return s, nil
}

// listed counts the distinct messages in the recipient's store.
func (s *side) listed(ctx context.Context) (int, error) {
	resp, err := s.to.rpc.Stream(ctx, "npp/messages/ls", nil, nil)
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
	s.row("", "`npp/send?topic=`", "`pubsub/pub`", "ratio", "middle half")
	s.speed("burst", bursts[0], bursts[1])
	s.losses(bursts[0], bursts[1])
	nppMissing, stockMissing := sum(each(bursts[0], missing)), sum(each(bursts[1], missing))
	s.verdict(nppMissing == 0, "a burst of %d messages between two daemons with npp arrives whole; of %d messages, %d are missing, with stock %d.",
		inBurst, rounds*inBurst, nppMissing, stockMissing)
	return s, nil
}
