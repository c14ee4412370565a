package router

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-msgio"
	"google.golang.org/protobuf/proto"

	"github.com/newpieceplease/npp/test/loopback"
)

// rawPeer is a peer that speaks pubsub without a router and reads on request.
type rawPeer struct {
	host.Host
	protocol protocol.ID
	topics   []string
	streams  chan network.Stream // opened to it
}

func newRawPeer(t *testing.T, protocol protocol.ID, topics ...string) *rawPeer {
	t.Helper()
	p := &rawPeer{loopback.Host(t), protocol, topics, make(chan network.Stream, 64)}
	p.SetStreamHandler(protocol, func(s network.Stream) { p.streams <- s })
	return p
}

// join connects the peer with a router and waits until the router knows its
// topics.
func (p *rawPeer) join(t *testing.T, r *Router, h host.Host) network.Stream {
	t.Helper()
	loopback.Connect(t, p, h)
	s := p.greet(t, h)
	eventually(t, "the peer is subscribed", func() bool {
		return !slices.ContainsFunc(p.topics, func(topic string) bool { return !slices.Contains(r.ListPeers(topic), p.ID()) })
	})
	return s
}

// greet opens a stream and begins it with the peer's topics.
func (p *rawPeer) greet(t *testing.T, h host.Host) network.Stream {
	t.Helper()
	s, ok := p.tryGreet(t, h)
	if !ok {
		t.Fatal("no stream could be opened")
	}
	return s
}

func (p *rawPeer) tryGreet(t *testing.T, h host.Host) (s network.Stream, ok bool) {
	t.Helper()
	s, err := p.NewStream(network.WithNoDial(testContext(t), "test"), h.ID(), p.protocol)
	if err != nil {
		return nil, false
	}
	rpc := &pb.RPC{}
	yes := true
	for _, topic := range p.topics {
		rpc.Subscriptions = append(rpc.Subscriptions, &pb.RPC_SubOpts{Subscribe: &yes, Topicid: &topic})
	}
	return s, trySend(t, s, rpc) == nil
}

// send writes an RPC.
func send(t *testing.T, s network.Stream, rpc *pb.RPC) {
	t.Helper()
	must(t, trySend(t, s, rpc))
}

func trySend(t *testing.T, s network.Stream, rpc *pb.RPC) error {
	t.Helper()
	b, err := proto.Marshal(rpc)
	must(t, err)
	_, err = s.Write(append(binary.AppendUvarint(nil, uint64(len(b))), b...))
	return err
}

// next returns the next stream that was opened to the peer.
func (p *rawPeer) next(t *testing.T) network.Stream {
	t.Helper()
	select {
	case s := <-p.streams:
		return s
	case <-testContext(t).Done():
		t.Fatal("no stream was opened to the peer")
		return nil
	}
}

// read reads until a message arrives, and returns its data.
func read(t *testing.T, s network.Stream) string {
	t.Helper()
	must(t, s.SetReadDeadline(time.Now().Add(patience)))
	r := msgio.NewVarintReaderSize(s, 2<<20)
	for {
		b, err := r.ReadMsg()
		must(t, err)
		var rpc pb.RPC
		must(t, proto.Unmarshal(b, &rpc))
		for _, m := range rpc.GetPublish() {
			return string(m.GetData())
		}
	}
}

// wantReset waits until the other side reset a stream.
func wantReset(t *testing.T, s network.Stream) {
	t.Helper()
	must(t, s.SetReadDeadline(time.Now().Add(patience)))
	for b := make([]byte, 1<<16); ; {
		if _, err := s.Read(b); err != nil {
			if !errors.Is(err, network.ErrReset) {
				t.Fatalf("the stream ended with %v", err)
			}
			return
		}
	}
}

// queuedFor returns the bytes that count for a peer.
func (r *Router) queuedFor(p peer.ID) int {
	r.GetTopics() // the published messages have been queued
	r.out.mu.Lock()
	defer r.out.mu.Unlock()
	if q := r.out.queues[p]; q != nil {
		return q.bytes
	}
	return 0
}

// queuedForAll returns the bytes that count for all peers.
func (r *Router) queuedForAll() int {
	r.GetTopics()
	r.out.mu.Lock()
	defer r.out.mu.Unlock()
	return r.out.bytes
}

// publish publishes a message of a size and waits until a subscriber has
// received it.
func publish(t *testing.T, r *Router, topic string, size int, sub *Subscription) {
	t.Helper()
	must(t, r.Publish(testContext(t), topic, make([]byte, size)))
	m, err := sub.Next(testContext(t))
	must(t, err)
	if len(m.Data) != size {
		t.Fatalf("%d bytes came instead of %d", len(m.Data), size)
	}
}

func subscribeTo(t *testing.T, r *Router, topic string) *Subscription {
	t.Helper()
	sub, err := r.Subscribe(topic, acceptAll)
	must(t, err)
	t.Cleanup(sub.Cancel)
	return sub
}

const mib = 1 << 20

// A peer that does not read is bounded, and others miss nothing. It receives
// later messages as soon as it reads again.
func TestPeerThatDoesNotReadIsResetAtItsBound(t *testing.T) {
	for _, floodsub := range []bool{false, true} {
		t.Run(fmt.Sprint("floodsub ", floodsub), func(t *testing.T) {
			const bound, size = 4 * mib, mib / 4
			a, ha := newRouter(t, Options{SupportsBursts: patient, Floodsub: floodsub, Limits: Limits{PeerBytes: bound}})
			b, hb := newRouter(t, Options{SupportsBursts: patient, Floodsub: floodsub})
			sub := subscribe(t, b, acceptAll)
			link(t, a, ha, hb)
			protocol := pubsub.GossipSubID_v11
			if floodsub {
				protocol = pubsub.FloodSubID
			}
			deaf := newRawPeer(t, protocol, topic)
			out := deaf.join(t, a, ha)
			in := deaf.next(t)

			published := 0
			for ; a.Drops().Streams == 0; published += size {
				if published > bound {
					t.Fatalf("%d bytes were queued", published)
				}
				publish(t, a, topic, size, sub)
				a.GetTopics()
			}
			if published < bound/2 {
				t.Errorf("the stream was reset at %d bytes", published)
			}
			wantReset(t, in)
			wantReset(t, out) // so that the peer repeats its subscriptions
			if n := a.queuedFor(deaf.ID()); n != 0 {
				t.Errorf("%d bytes are still counted", n)
			}
			if lost := a.Drops().Outbound; lost != uint64(published/size) {
				t.Errorf("%d of %d messages are counted as lost", lost, published/size)
			}
			if deaf.Network().Connectedness(ha.ID()) != network.Connected {
				t.Error("the peer was disconnected")
			}

			deaf.join(t, a, ha)
			in = deaf.next(t)
			publish(t, a, topic, 5, sub)
			if got := read(t, in); len(got) != 5 {
				t.Errorf("%d bytes came", len(got))
			}
			if n := a.Drops().Streams; n != 1 {
				t.Errorf("%d streams were reset", n)
			}
		})
	}
}

// A stock peer that does not read for a while sends and receives afterwards.
func TestStockPeerReceivesAndSendsAfterItsStreamWasReset(t *testing.T) {
	a, ha := newRouter(t, Options{SupportsBursts: patient, Limits: Limits{PeerBytes: 2 * mib}})
	heard := subscribe(t, a, acceptAll)
	hs := loopback.Host(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var stall sync.Mutex // blocks its event loop
	greeted := make(chan string, 16)
	stock, err := pubsub.NewGossipSub(ctx, hs, pubsub.WithAppSpecificRpcInspector(func(_ peer.ID, rpc *pubsub.RPC) error {
		stall.Lock()
		defer stall.Unlock()
		if len(rpc.GetSubscriptions()) > 0 {
			greeted <- "stock"
		}
		return nil
	}))
	must(t, err)
	a.OnSubscription(func(peer.ID, string, bool) { greeted <- "a" })
	sub, err := stock.Subscribe(topic) //nolint:staticcheck // as in Router.Subscribe
	must(t, err)
	defer sub.Cancel()
	bothAreGreeted := func() {
		t.Helper()
		for missing := []string{"a", "stock"}; len(missing) > 0; {
			select {
			case who := <-greeted:
				missing = slices.DeleteFunc(missing, func(name string) bool { return name == who })
			case <-testContext(t).Done():
				t.Fatalf("%v was not greeted", missing)
			}
		}
	}
	loopback.Connect(t, ha, hs)
	bothAreGreeted()

	stall.Lock()
	for a.Drops().Streams == 0 {
		must(t, a.Publish(testContext(t), topic, make([]byte, mib/4)))
		_, err := heard.Next(testContext(t)) // this router's own stream
		must(t, err)
	}
	stall.Unlock()

	bothAreGreeted()
	must(t, a.Publish(testContext(t), topic, []byte("to stock")))
	for {
		m, err := sub.Next(testContext(t))
		must(t, err)
		if string(m.Data) == "to stock" {
			break
		}
	}
	got := make(chan struct{})
	go func() {
		defer close(got)
		for {
			if m, err := heard.Next(testContext(t)); err != nil || string(m.Data) == "from stock" {
				return
			}
		}
	}()
	eventually(t, "the stock peer is heard", func() bool { // once its mesh is complete again
		must(t, stock.Publish(topic, []byte("from stock"))) //nolint:staticcheck
		select {
		case <-got:
			return true
		default:
			return false
		}
	})
}

// Peers that do not read are bounded together: the stream of the peer with the
// most queued bytes is reset.
func TestPeersThatDoNotReadShareABound(t *testing.T) {
	const bound, size = 8 * mib, mib / 4
	a, ha := newRouter(t, Options{SupportsBursts: patient, Limits: Limits{AllBytes: bound}})
	b, hb := newRouter(t, Options{SupportsBursts: patient})
	var deaf []*rawPeer
	var subs []*Subscription
	for i := range 4 {
		name := fmt.Sprint("deaf ", i)
		subs = append(subs, subscribeTo(t, b, name))
		deaf = append(deaf, newRawPeer(t, pubsub.GossipSubID_v11, name))
	}
	loopback.Connect(t, ha, hb)
	for i, p := range deaf {
		p.join(t, a, ha)
		eventually(t, "b is subscribed", func() bool { return slices.Contains(a.ListPeers(p.topics[0]), hb.ID()) })
		for range i + 1 { // the last one has the most
			publish(t, a, p.topics[0], size, subs[i])
		}
	}
	total := 10 * size
	for a.Drops().Streams == 0 {
		for i, p := range deaf {
			if total += size; total > bound {
				t.Fatalf("%d bytes were queued", total)
			}
			publish(t, a, p.topics[0], size, subs[i])
			if a.GetTopics(); a.Drops().Streams > 0 {
				break
			}
		}
	}
	if total < bound/2 {
		t.Errorf("a stream was reset at %d bytes", total)
	}
	last := deaf[len(deaf)-1]
	wantReset(t, last.next(t))
	for _, p := range deaf[:len(deaf)-1] {
		if n := a.queuedFor(p.ID()); n == 0 {
			t.Error("more than one stream was reset")
		}
	}
	if n := a.queuedForAll(); n > total-4*size {
		t.Errorf("%d bytes are counted of %d", n, total)
	}
}

// A message that is queued for many peers uses its memory once, so it counts
// once. A burst does not reset the streams of peers that read it.
func TestMessageForManyPeersCountsOnce(t *testing.T) {
	const size, messages = mib / 4, 8
	a, ha := newRouter(t, Options{SupportsBursts: patient, Limits: Limits{AllBytes: 4 * mib}})
	var deaf []*rawPeer
	for range 5 { // 10 MiB are queued for them
		p := newRawPeer(t, pubsub.GossipSubID_v11, topic)
		p.join(t, a, ha)
		deaf = append(deaf, p)
	}
	for range messages {
		must(t, a.Publish(testContext(t), topic, make([]byte, size)))
	}
	if n := a.queuedForAll(); n < messages*size || n > messages*size+mib/8 {
		t.Errorf("%d bytes are counted of %d", n, messages*size)
	}
	for _, p := range deaf {
		if n := a.queuedFor(p.ID()); n < messages*size {
			t.Errorf("%d bytes are counted for a peer", n)
		}
	}
	if n := a.Drops().Streams; n != 0 {
		t.Errorf("%d streams were reset", n)
	}
}

func TestNothingIsCountedForPeerThatIsGone(t *testing.T) {
	a, ha := newRouter(t, Options{SupportsBursts: patient})
	deaf := newRawPeer(t, pubsub.GossipSubID_v11, topic)
	deaf.join(t, a, ha)
	for range 3 {
		must(t, a.Publish(testContext(t), topic, make([]byte, mib)[:MaxMessageBytes]))
	}
	if n := a.queuedForAll(); n < 2*MaxMessageBytes {
		t.Fatalf("%d bytes are counted", n)
	}
	deaf.Close()
	eventually(t, "nothing is counted", func() bool { return a.queuedForAll() == 0 })
	if got := a.Drops(); got != (Drops{}) {
		t.Errorf("dropped: %+v", got)
	}
}

// The writer of a queue may run before the tracer that reports the RPC.
func TestNothingIsCountedOfWhatIsWrittenAtOnce(t *testing.T) {
	o := newOutbound(nil, nil, Limits{}.withDefaults(), func(int) { t.Error("something is lost") })
	q := o.queue("peer")
	o.written(q, 100) // the RPC with the subscriptions
	for n := range 1000 {
		rpc := &pubsub.RPC{RPC: pb.RPC{Publish: []*pb.Message{{Data: make([]byte, n)}}}}
		size := proto.Size(&rpc.RPC)
		if size += len(binary.AppendUvarint(nil, uint64(size))); n%2 == 0 {
			o.written(q, size)
			o.queued(rpc, "peer")
		} else {
			o.queued(rpc, "peer")
			o.written(q, size)
		}
	}
	if q.bytes != 0 || o.bytes != 0 || len(q.frames) != 0 || len(o.held) != 0 {
		t.Errorf("%d and %d bytes are counted", q.bytes, o.bytes)
	}
}

func TestNothingIsCountedOfWhatWasRead(t *testing.T) {
	a, ha := newRouter(t, Options{SupportsBursts: patient, TellFollowed: true})
	b, hb := newRouter(t, Options{SupportsBursts: patient})
	sub := subscribe(t, b, acceptAll)
	link(t, a, ha, hb)
	stop, err := a.Follow("another", takeAll) // which b learns
	must(t, err)
	defer stop()
	for range 100 {
		must(t, a.Publish(testContext(t), topic, make([]byte, mib/16)))
	}
	for range 100 {
		_, err := sub.Next(testContext(t))
		must(t, err)
	}
	eventually(t, "nothing is counted", func() bool { return a.queuedFor(hb.ID()) == 0 && a.queuedForAll() == 0 })
	if len(a.out.held) != 0 {
		t.Errorf("%d messages are held", len(a.out.held))
	}
	must(t, ha.Network().ClosePeer(hb.ID()))
	eventually(t, "the queue is gone", func() bool {
		a.out.mu.Lock()
		defer a.out.mu.Unlock()
		return len(a.out.queues) == 0 && a.in.stream(hb.ID()) == nil
	})
}

// Pubsub gives up on a peer after a few streams. The router then disconnects
// the peer, which may connect again.
func TestPeerThatNeverReadsIsDisconnected(t *testing.T) {
	a, ha := newRouter(t, Options{SupportsBursts: patient, Limits: Limits{PeerBytes: 2 * mib}})
	deaf := newRawPeer(t, pubsub.GossipSubID_v11, topic)
	out := deaf.join(t, a, ha)
	disconnected := func() bool { return deaf.Network().Connectedness(ha.ID()) != network.Connected }
	for resets := uint64(1); !disconnected(); resets++ {
		if resets > 10 {
			t.Fatal("the peer is still connected")
		}
		for a.Drops().Streams < resets {
			must(t, a.Publish(testContext(t), topic, make([]byte, mib/4)))
		}
		wantReset(t, out)
		eventually(t, "the peer is disconnected, or subscribed again", func() (done bool) {
			if out, done = deaf.tryGreet(t, ha); !done {
				return disconnected()
			}
			eventually(t, "the same", func() bool {
				return disconnected() || slices.Contains(a.ListPeers(topic), deaf.ID()) && len(deaf.streams) > int(resets)
			})
			return true
		})
	}
	for len(deaf.streams) > 0 {
		<-deaf.streams
	}
	deaf.join(t, a, ha)
	in := deaf.next(t)
	must(t, a.Publish(testContext(t), topic, []byte("again")))
	if got := read(t, in); got != "again" {
		t.Errorf("%d bytes came", len(got))
	}
}

// A stock peer that learns late of a reset then forgets this peer's
// subscriptions. They are sent again only after it has learned of the reset.
func TestPeerIsNotGreetedBeforeItGreets(t *testing.T) {
	a, ha := newRouter(t, Options{SupportsBursts: patient, Limits: Limits{PeerBytes: 2 * mib}})
	late := newRawPeer(t, pubsub.GossipSubID_v11, topic)
	out := late.join(t, a, ha)
	wantReset(t, func() network.Stream {
		for a.Drops().Streams == 0 {
			must(t, a.Publish(testContext(t), topic, make([]byte, mib/4)))
		}
		return late.next(t)
	}())
	wantReset(t, out)
	select {
	case <-late.streams:
		t.Error("a stream was opened before the peer opened one")
	case <-time.After(100 * time.Millisecond):
	}
	late.greet(t, ha)
	late.next(t)
}

// wrappedHost is a host with wrapped streams.
type wrappedHost struct {
	host.Host
	open func(network.Stream, context.Context) (network.Stream, error)
}

func (h *wrappedHost) NewStream(ctx context.Context, p peer.ID, protocols ...protocol.ID) (network.Stream, error) {
	s, err := h.Host.NewStream(ctx, p, protocols...)
	if err != nil {
		return nil, err
	}
	return h.open(s, ctx)
}

// impatientStream is a stream whose write deadline is always near.
type impatientStream struct{ network.Stream }

func (s impatientStream) SetWriteDeadline(time.Time) error {
	return s.Stream.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
}

// Pubsub resets a stream to which it cannot write a message in time. The reset
// is counted, and the peer sends and receives afterwards.
func TestPeerThatTakesTooLongIsReset(t *testing.T) {
	h := &wrappedHost{loopback.Host(t), func(s network.Stream, _ context.Context) (network.Stream, error) { return impatientStream{s}, nil }}
	a := newRouterOn(t, h, Options{SupportsBursts: patient})
	deaf := newRawPeer(t, pubsub.GossipSubID_v11, topic)
	out := deaf.join(t, a, h)
	in := deaf.next(t)
	must(t, a.Publish(testContext(t), topic, make([]byte, MaxMessageBytes)))
	eventually(t, "the stream is reset", func() bool { return a.Drops().Streams > 0 })
	wantReset(t, in)
	wantReset(t, out)
	if got := a.Drops(); got != (Drops{Outbound: 1, Streams: 1}) {
		t.Errorf("dropped: %+v", got)
	}
	deaf.join(t, a, h)
	in = deaf.next(t)
	must(t, a.Publish(testContext(t), topic, []byte("again")))
	if got := read(t, in); got != "again" {
		t.Errorf("%d bytes came", len(got))
	}
}

// A peer to which no stream can be opened costs no more than one that does not
// read.
func TestPeerThatTakesNoStreamIsDisconnectedAtItsBound(t *testing.T) {
	const bound, size = 4 * mib, mib / 4
	h := &wrappedHost{loopback.Host(t), func(s network.Stream, ctx context.Context) (network.Stream, error) {
		<-ctx.Done()
		s.Reset()
		return nil, ctx.Err()
	}}
	a := newRouterOn(t, h, Options{SupportsBursts: patient, Limits: Limits{PeerBytes: bound}})
	p := newRawPeer(t, pubsub.GossipSubID_v11, topic)
	p.join(t, a, h)
	published := 0
	for a.Drops().Streams == 0 {
		if published += size; published > bound {
			t.Fatalf("%d bytes were queued", published)
		}
		must(t, a.Publish(testContext(t), topic, make([]byte, size)))
		a.GetTopics()
	}
	eventually(t, "the peer is disconnected", func() bool { return p.Network().Connectedness(h.ID()) != network.Connected })
	eventually(t, "nothing is counted", func() bool { return a.queuedForAll() == 0 })
}

// Pubsub discards a queue silently if it could not open a stream.
func TestQueueWithoutStreamIsForgotten(t *testing.T) {
	o := newOutbound(nil, nil, Limits{}.withDefaults(), func(int) {})
	rpc := &pubsub.RPC{RPC: pb.RPC{Publish: []*pb.Message{{Data: make([]byte, 100)}}}}
	for _, p := range []peer.ID{"late", "opens", "has"} {
		o.queued(rpc, p)
	}
	for _, q := range o.queues {
		q.created = time.Now().Add(-2 * staleAfter)
	}
	o.queues["opens"].cancel = func() {}
	o.queues["has"].stream = &outStream{}
	o.queued(rpc, "new")
	if o.queues["late"] != nil || len(o.queues) != 3 || o.bytes != 3*3+proto.Size(rpc.Publish[0]) {
		t.Errorf("%d queues are counted, with %d bytes", len(o.queues), o.bytes)
	}
}

// stuckStream is a stream that blocks writes until their deadline.
type stuckStream struct {
	network.Stream
	mu      sync.Mutex
	changed sync.Cond
	expired bool
}

func newStuckStream() *stuckStream {
	s := &stuckStream{}
	s.changed.L = &s.mu
	return s
}

func (s *stuckStream) SetWriteDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expired = t.Before(time.Now())
	s.changed.Broadcast()
	return nil
}

func (s *stuckStream) Write([]byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.expired {
		s.changed.Wait()
	}
	return 0, os.ErrDeadlineExceeded
}

func (*stuckStream) Reset() error { return nil }

// In any order of queueing and writing, the bytes in a queue stay within the
// bound, and none remain after a reset of its stream.
func TestQueueNeverExceedsItsBound(t *testing.T) {
	const bound = 4 * mib
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 0))
		lost := 0
		limits := Limits{PeerBytes: bound}
		if seed%2 == 0 {
			limits = Limits{AllBytes: bound}
		}
		o := newOutbound(nil, nil, limits.withDefaults(), func(n int) { lost += n })
		s := &outStream{Stream: newStuckStream(), o: o, q: o.queue("peer")}
		s.q.stream = s

		var mu sync.Mutex // of the model of pubsub's queue
		var queue [][]byte
		must(t, s.SetWriteDeadline(time.Now().Add(time.Hour))) // as for the RPC with the subscriptions
		bytes, wake, done := 0, make(chan struct{}, 1), make(chan struct{})
		go func() {
			defer close(done)
			for range wake {
				for {
					must(t, s.SetWriteDeadline(time.Now().Add(time.Hour)))
					mu.Lock()
					if len(queue) == 0 {
						mu.Unlock()
						break
					}
					i := rand.IntN(len(queue))
					b := queue[i]
					queue = slices.Delete(queue, i, i+1)
					mu.Unlock()
					if _, err := s.Write(b); err != nil {
						t.Error(err)
					}
					mu.Lock()
					bytes -= len(b)
					mu.Unlock()
				}
			}
		}()
		messages := 0
		for o.resets.Load() == 0 {
			rpc := &pubsub.RPC{RPC: pb.RPC{}}
			for range random.IntN(4) {
				rpc.Publish = append(rpc.Publish, &pb.Message{Data: make([]byte, random.IntN(mib/4))})
			}
			messages += len(rpc.Publish)
			b, err := proto.Marshal(&rpc.RPC)
			must(t, err)
			b = append(binary.AppendUvarint(nil, uint64(len(b))), b...)
			mu.Lock()
			queue = append(queue, b)
			if bytes += len(b); bytes > bound {
				t.Errorf("%d bytes are queued", bytes)
			}
			mu.Unlock()
			select {
			case wake <- struct{}{}:
			default:
			}
			o.queued(rpc, "peer")
		}
		mu.Lock()
		if len(queue) > 0 {
			t.Errorf("%d RPCs are queued after the reset", len(queue))
		}
		mu.Unlock()
		close(wake)
		<-done
		if lost != messages || o.bytes != 0 || len(o.held) != 0 {
			t.Errorf("%d of %d messages are counted as lost, %d bytes as queued", lost, messages, o.bytes)
		}
	}
}
