package router

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-msgio"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/newpieceplease/npp/test/loopback"
)

// rpcReader reads what a router writes to a raw peer.
type rpcReader struct {
	t     *testing.T
	r     msgio.Reader
	most  int             // bytes of the largest RPC with subscriptions
	knows map[string]bool // topics that the router is subscribed to
	order []string        // "+topic" and "-topic" as they came
}

func newRPCReader(t *testing.T, s network.Stream) *rpcReader {
	t.Helper()
	must(t, s.SetReadDeadline(time.Now().Add(patience)))
	return &rpcReader{t: t, r: msgio.NewVarintReaderSize(s, 2<<20), knows: make(map[string]bool)}
}

// until reads until a subscription to a topic begins or ends.
func (r *rpcReader) until(topic string, on bool) {
	r.t.Helper()
	for {
		b, err := r.r.ReadMsg()
		if err != nil {
			r.t.Fatalf("%s is never announced: %v", topic, err)
		}
		var rpc pb.RPC
		must(r.t, proto.Unmarshal(b, &rpc))
		if len(rpc.GetSubscriptions()) > 0 {
			r.most = max(r.most, len(b))
		}
		found := false
		for _, s := range rpc.GetSubscriptions() {
			sign := "-"
			if s.GetSubscribe() {
				sign = "+"
			}
			if len(s.GetTopicid()) < 100 {
				r.order = append(r.order, sign+s.GetTopicid())
			}
			r.knows[s.GetTopicid()] = s.GetSubscribe()
			found = found || s.GetTopicid() == topic && s.GetSubscribe() == on
		}
		if found {
			return
		}
	}
}

// flush reads all that was queued before.
func (r *rpcReader) flush(a *Router) {
	r.t.Helper()
	topic := fmt.Sprint("flush ", len(r.knows))
	subscribeTo(r.t, a, topic)
	r.until(topic, true)
}

// announced returns what was announced since the last call, without what flush
// adds.
func (r *rpcReader) announced() string {
	order := slices.DeleteFunc(r.order, func(s string) bool { return strings.HasPrefix(s, "+flush") })
	r.order = nil
	return strings.Join(order, " ")
}

// wantAnnounced compares what a router announced so far.
func (r *rpcReader) wantAnnounced(a *Router, want string) {
	r.t.Helper()
	r.flush(a)
	if got := r.announced(); got != want {
		r.t.Errorf("announced is %q, want %q", got, want)
	}
}

// No RPC with subscriptions is larger than peers accept, when the peer connects
// and when it is told later, and each subscription arrives.
func TestManySubscriptionsArriveInSmallRPCs(t *testing.T) {
	for _, c := range []struct {
		name         string
		tellFollowed bool
		before       bool // the peer subscribes before it is greeted
	}{{"told to all", true, false}, {"known before", false, true}, {"told later", false, false}} {
		t.Run(c.name, func(t *testing.T) {
			const topics = 6000
			subscribed := make(chan struct{})
			h := &wrappedHost{loopback.Host(t), func(s network.Stream, ctx context.Context) (network.Stream, error) {
				if c.before {
					<-subscribed
				}
				return s, nil
			}}
			a := newRouterOn(t, h, Options{SupportsBursts: patient, TellFollowed: c.tellFollowed})
			all := addresses(0, topics)
			for _, topic := range all {
				follow(t, a, topic, takeAll)
			}
			subscribeTo(t, a, "greeting")
			p := newRawPeer(t, pubsub.GossipSubID_v11)
			s := p.join(t, a, h)
			if c.before {
				tell(t, s, true, all...)
				tell(t, s, true, "last")
				eventually(t, "the topics are known", func() bool { return slices.Contains(a.ListPeers("last"), p.ID()) })
			}
			close(subscribed)
			r := newRPCReader(t, p.next(t))
			r.until("greeting", true)
			if !c.tellFollowed && !c.before {
				tell(t, s, true, all...)
			}
			for _, topic := range all {
				if !r.knows[topic] {
					r.until(topic, true)
				}
			}
			r.flush(a)
			if r.most > maxAnnouncement || r.most < maxAnnouncement/2 {
				t.Errorf("the largest RPC has %d bytes", r.most)
			}
			eventually(t, "nothing is counted", func() bool { return a.queuedFor(p.ID()) == 0 && a.queuedForAll() == 0 })
			must(t, p.Close()) // so that it is not told of the end of each
		})
	}
}

func TestTopicThatNoPeerAcceptsIsNotWritten(t *testing.T) {
	a, ha := newRouter(t, Options{SupportsBursts: patient})
	long := strings.Repeat("x", maxAnnouncement)
	subscribeTo(t, a, long)
	p := newRawPeer(t, pubsub.GossipSubID_v11)
	p.join(t, a, ha)
	r := newRPCReader(t, p.next(t))
	r.flush(a)
	subscribeTo(t, a, long+"y")
	r.flush(a)
	if r.most > maxAnnouncement {
		t.Errorf("an RPC has %d bytes", r.most)
	}
}

// The parts of an RPC contain what the RPC contained, and extensions come
// first, where peers expect them.
func TestPartsOfAnRPCContainAllOfIt(t *testing.T) {
	yes := true
	for _, large := range []int{0, 100, 900_000} {
		for _, topics := range []int{0, 1, 5000} {
			rpc := &pb.RPC{Control: &pb.ControlMessage{Extensions: &pb.ControlExtensions{PartialMessages: &yes}}}
			if large > 0 {
				rpc.Publish = []*pb.Message{{Data: make([]byte, large)}}
			}
			for _, topic := range addresses(0, topics) {
				rpc.Subscriptions = append(rpc.Subscriptions, &pb.RPC_SubOpts{Subscribe: &yes, Topicid: &topic, RequestsPartial: &yes})
			}
			b, err := proto.Marshal(rpc)
			must(t, err)
			subscriptions, rest, err := parseRPC(protowire.AppendBytes(nil, b))
			must(t, err)
			var all pb.RPC
			for i, frame := range framesOf(bytes.Join(rest, nil), subscriptions) {
				part, n := protowire.ConsumeBytes(frame)
				if n != len(frame) || len(part) > maxAnnouncement && (i > 0 || large < maxAnnouncement) {
					t.Fatalf("part %d of %d bytes in %d", i, len(part), len(frame))
				}
				must(t, proto.UnmarshalOptions{Merge: true}.Unmarshal(part, &all))
				if !all.GetControl().GetExtensions().GetPartialMessages() {
					t.Error("extensions are not in the first RPC")
				}
			}
			if !proto.Equal(rpc, &all) {
				t.Errorf("%d bytes and %d topics: something is missing", large, topics)
			}
		}
	}
}

func FuzzParseRPC(f *testing.F) {
	yes, name := true, topic
	b, err := proto.Marshal(&pb.RPC{Subscriptions: []*pb.RPC_SubOpts{{Subscribe: &yes, Topicid: &name}}, Publish: []*pb.Message{{Data: []byte("x")}}})
	must(f, err)
	f.Add(protowire.AppendBytes(nil, b))
	f.Add([]byte{0})
	f.Fuzz(func(t *testing.T, frame []byte) {
		subscriptions, rest, err := parseRPC(frame)
		if err != nil {
			return
		}
		total := 0
		for _, field := range append(subscriptions, rest...) {
			total += len(field)
			fieldBytes(field)
		}
		if _, n := protowire.ConsumeVarint(frame); total != len(frame)-n {
			t.Errorf("%d bytes in fields of %d", total, len(frame)-n)
		}
	})
}

// A followed topic is told only to peers that are subscribed to it, whatever
// comes first.
func TestFollowedTopicIsToldToPeersThatAreSubscribedToIt(t *testing.T) {
	for _, floodsub := range []bool{false, true} {
		protocol := pubsub.GossipSubID_v11
		if floodsub {
			protocol = pubsub.FloodSubID
		}
		begin := func(t *testing.T) (a *Router, s network.Stream, r *rpcReader) {
			a, ha := newRouter(t, Options{SupportsBursts: patient, Floodsub: floodsub})
			subscribeTo(t, a, "public")
			follow(t, a, "before", takeAll)
			p := newRawPeer(t, protocol)
			s = p.join(t, a, ha)
			r = newRPCReader(t, p.next(t))
			r.wantAnnounced(a, "+public")
			return a, s, r
		}
		name := fmt.Sprintf("floodsub %t, ", floodsub)
		t.Run(name+"peer subscribes", func(t *testing.T) {
			a, s, r := begin(t)
			tell(t, s, true, "before", "public", "unknown")
			r.until("before", true)
			r.wantAnnounced(a, "+before")
			tell(t, s, true, "before") // again
			tell(t, s, false, "before")
			tell(t, s, true, "before")
			tell(t, s, true, "done")
			eventually(t, "all is read", func() bool { return len(a.ListPeers("done")) > 0 })
			r.wantAnnounced(a, "") // it knows
		})
		t.Run(name+"topic is followed later", func(t *testing.T) {
			a, s, r := begin(t)
			tell(t, s, true, "known")
			eventually(t, "it is known", func() bool { return len(a.ListPeers("known")) > 0 })
			follow(t, a, "other", takeAll)
			follow(t, a, "known", takeAll)
			r.wantAnnounced(a, "+known")
		})
		t.Run(name+"topic is no longer followed", func(t *testing.T) {
			a, s, r := begin(t)
			stop, err := a.Follow("after", takeAll)
			must(t, err)
			stop()
			r.wantAnnounced(a, "")
			for range 2 {
				stop, err = a.Follow("after", takeAll)
				must(t, err)
				r.wantAnnounced(a, "")
				tell(t, s, true, "after")
				r.until("after", true)
				tell(t, s, false, "after")
				eventually(t, "it is subscribed no longer", func() bool { return len(a.ListPeers("after")) == 0 })
				stop()
				r.wantAnnounced(a, "+after -after")
			}
		})
		t.Run(name+"the stream of the peer is reset", func(t *testing.T) {
			a, s, r := begin(t)
			tell(t, s, true, "before", "later")
			r.until("before", true)
			must(t, s.Reset()) // the peer's own, which makes its subscriptions forgotten
			eventually(t, "they are forgotten", func() bool { return len(a.ListPeers("later")) == 0 })
			follow(t, a, "later", takeAll)
			r.wantAnnounced(a, "+before")
		})
	}
}

// A peer may have subscribed before a stream to it is open.
func TestPeerThatSubscribedIsGreetedWithFollowedTopics(t *testing.T) {
	subscribed := make(chan struct{})
	opened := 0
	h := &wrappedHost{loopback.Host(t), func(s network.Stream, ctx context.Context) (network.Stream, error) {
		opened++
		<-subscribed
		return s, nil
	}}
	a := newRouterOn(t, h, Options{SupportsBursts: patient})
	follow(t, a, "followed", takeAll)
	follow(t, a, "other", takeAll)
	p := newRawPeer(t, pubsub.GossipSubID_v11, "followed")
	p.join(t, a, h)
	close(subscribed)
	s := p.next(t)
	r := newRPCReader(t, s)
	r.wantAnnounced(a, "+followed")
	must(t, s.Reset()) // another one is opened, and the peer is still subscribed
	r = newRPCReader(t, p.next(t))
	r.wantAnnounced(a, "+followed")
	if opened != 2 {
		t.Errorf("%d streams were opened", opened)
	}
}

// Topics that are subscribed to in another way are told to all peers, also if
// they are followed.
func TestSubscribedTopicIsToldToAllPeers(t *testing.T) {
	a, ha := newRouter(t, Options{SupportsBursts: patient})
	other := func(topic string) {
		t.Helper()
		sub, err := a.PubSub().Subscribe(topic) //nolint:staticcheck // as `ipfs pubsub sub` does
		must(t, err)
		t.Cleanup(sub.Cancel)
	}
	other("foreign and followed")
	follow(t, a, "foreign and followed", takeAll)
	subscribeTo(t, a, "subscribed and followed")
	follow(t, a, "subscribed and followed", takeAll)
	follow(t, a, "followed", takeAll)
	p := newRawPeer(t, pubsub.GossipSubID_v11)
	p.join(t, a, ha)
	r := newRPCReader(t, p.next(t))
	r.flush(a)
	if r.announced(); !r.knows["foreign and followed"] || !r.knows["subscribed and followed"] || r.knows["followed"] {
		t.Errorf("the peer knows %v", r.knows)
	}
	sub := subscribeTo(t, a, "followed")
	r.until("followed", true)
	r.wantAnnounced(a, "+followed")
	sub.Cancel()
	r.wantAnnounced(a, "") // it is followed
	for n := range 100 {
		topic := fmt.Sprint("foreign ", n)
		other(topic)
		r.until(topic, true)
	}
}

// The announcement of a subscription of `ipfs pubsub sub` may be written before
// the router knows of the subscription.
func TestAnnouncementThatIsWrittenAtOnceIsNotLost(t *testing.T) {
	sink := &sinkStream{frames: make(chan []byte, 10)}
	s := newQueuedStream(sink)
	_, err := s.Write(subscription(t, topic, true))
	must(t, err)
	if len(sink.frames) != 0 {
		t.Error("it is written though it may be a followed topic")
	}
	(&tracer{topics: s.o.in.topics, out: s.o}).Join(topic)
	select {
	case frame := <-sink.frames:
		if !bytes.Equal(frame, subscription(t, topic, true)) {
			t.Errorf("%x is written", frame)
		}
	case <-testContext(t).Done():
		t.Fatal("nothing is written")
	}
}

// subscription returns an RPC as it is written.
func subscription(t *testing.T, topic string, on bool) []byte {
	t.Helper()
	b, err := proto.Marshal(&pb.RPC{Subscriptions: []*pb.RPC_SubOpts{{Subscribe: &on, Topicid: &topic}}})
	must(t, err)
	return protowire.AppendBytes(nil, b)
}

// newQueuedStream returns a stream to a peer in place of pubsub.
func newQueuedStream(s network.Stream) *outStream {
	o := newOutbound(nil, newInbound(newTopicSet(false)), Limits{}.withDefaults(), func(int) {})
	q := o.queue("peer")
	q.stream = newOutStream(s, o, q)
	return q.stream
}

// sinkStream is a stream that takes all.
type sinkStream struct {
	network.Stream
	frames chan []byte
}

func (*sinkStream) SetWriteDeadline(time.Time) error { return nil }

func (s *sinkStream) Write(b []byte) (int, error) {
	s.frames <- bytes.Clone(b)
	return len(b), nil
}

// What a peer is told in addition comes after the first RPC of pubsub, in which
// the peer expects extensions.
func TestPeerIsToldAfterTheFirstRPC(t *testing.T) {
	for _, on := range []bool{true, false} {
		sink := &sinkStream{frames: make(chan []byte, 10)}
		s := newQueuedStream(sink)
		s.tell(topic)
		s.tellPending()
		if len(sink.frames) != 0 {
			t.Error("a topic comes first")
		}
		_, err := s.Write(subscription(t, topic, on))
		must(t, err)
		var want [][]byte
		if on { // otherwise the subscription ended before the peer was told
			want = append(want, subscription(t, topic, true))
		}
		if len(sink.frames) != len(want) || on && !bytes.Equal(<-sink.frames, want[0]) {
			t.Errorf("%t: %d RPCs are written", on, len(sink.frames))
		}
		s.tell("other")
		s.tellPending()
		if len(sink.frames) != 1 || !bytes.Equal(<-sink.frames, subscription(t, "other", true)) {
			t.Errorf("%t: the other topic is not told", on)
		}
	}
}

// lateStream is a stream whose writes take too long.
type lateStream struct {
	sinkStream
	resets int
}

func (s *lateStream) Write([]byte) (int, error) { return 0, os.ErrDeadlineExceeded }
func (s *lateStream) Reset() error              { s.resets++; return nil }

func TestPeerThatDoesNotReadWhatItIsToldIsReset(t *testing.T) {
	late := &lateStream{}
	s := newQueuedStream(late)
	s.begun, s.telling = true, true
	s.tell(topic)
	s.tellPending()
	if late.resets != 1 || !s.q.unread || s.o.resets.Load() != 1 {
		t.Errorf("the stream was reset %d times, %d times because of the peer", late.resets, s.o.resets.Load())
	}
}

// stockPeer is a peer with a stock router.
type stockPeer struct {
	host.Host
	*pubsub.PubSub
}

func newStockPeer(t *testing.T) *stockPeer {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	p := &stockPeer{Host: loopback.Host(t)}
	var err error
	p.PubSub, err = pubsub.NewGossipSub(ctx, p.Host)
	must(t, err)
	return p
}

func (p *stockPeer) follow(t *testing.T, topics ...string) (last *pubsub.Subscription) {
	t.Helper()
	for _, topic := range topics {
		var err error
		last, err = p.Subscribe(topic) //nolint:staticcheck
		must(t, err)
	}
	return last
}

// streams returns the number of pubsub streams between a peer and a host in
// each direction.
func streams(h host.Host, p peer.ID) (in, out int) {
	for _, c := range h.Network().ConnsToPeer(p) {
		for _, s := range c.GetStreams() {
			switch {
			case !strings.HasPrefix(string(s.Protocol()), "/meshsub/"):
			case s.Stat().Direction == network.DirInbound:
				in++
			default:
				out++
			}
		}
	}
	return in, out
}

func TestManyTopicsOfStockPeersAreFollowed(t *testing.T) {
	const topics = 20000
	a, ha := newRouter(t, Options{SupportsBursts: patient})
	all := addresses(0, topics)
	noticed := make(chan string, topics)
	a.OnSubscription(func(_ peer.ID, topic string, on bool) {
		if on {
			noticed <- topic
		}
	})
	var first []*stockPeer
	const each = topics / 4 // whose greeting is small enough
	for some := range slices.Chunk(all, each) {
		p := newStockPeer(t)
		p.follow(t, some...)
		loopback.Connect(t, p, ha)
		first = append(first, p)
	}
	taken := make(chan string, 1000)
	for range topics { // as replication does
		follow(t, a, <-noticed, func(_ context.Context, m *pubsub.Message) bool {
			taken <- m.GetTopic() + " " + string(m.GetData())
			return true
		})
	}
	for i, p := range first {
		for _, n := range []int{0, each - 1} {
			topic := all[i*each+n]
			eventually(t, "the topic is known on both sides", func() bool {
				return slices.Contains(a.ListPeers(topic), p.ID()) && slices.Contains(p.ListPeers(topic), ha.ID())
			})
		}
	}

	late := newStockPeer(t)
	loopback.Connect(t, late, ha)
	for _, at := range []int{17, topics - 17} {
		topic := all[at]
		sub := late.follow(t, topic)
		eventually(t, "the late peer sees the follower", func() bool { return slices.Contains(late.ListPeers(topic), ha.ID()) })
		eventually(t, "the late peer is heard", func() bool { // once its mesh is complete
			must(t, late.Publish(topic, []byte("from late"))) //nolint:staticcheck
			select {
			case got := <-taken:
				return got == topic+" from late"
			default:
				return false
			}
		})
		must(t, a.Announce(testContext(t), topic, []byte("to late")))
		for {
			m, err := sub.Next(testContext(t))
			must(t, err)
			if string(m.GetData()) == "to late" {
				break
			}
		}
	}
	for _, p := range append(first, late) {
		if in, out := streams(ha, p.ID()); in != 1 || out != 1 {
			t.Errorf("%d and %d streams are open", in, out)
		}
	}
	if got := len(late.ListPeers(all[0])) + len(first[0].ListPeers(all[topics-1])); got != 0 {
		t.Error("a peer learned of a topic that it is not subscribed to")
	}
	if n := a.Drops().Streams + a.in.ignored.Load(); n != 0 {
		t.Errorf("%d streams or subscriptions were refused", n)
	}
	for _, p := range append(first, late) {
		must(t, p.Close()) // so that it is not told of the end of each
	}
}
