package router

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/test/loopback"
)

// tell subscribes a raw peer to topics, or unsubscribes it, in small RPCs.
func tell(t *testing.T, s network.Stream, on bool, topics ...string) {
	t.Helper()
	for some := range slices.Chunk(topics, 5000) {
		rpc := &pb.RPC{}
		for _, topic := range some {
			rpc.Subscriptions = append(rpc.Subscriptions, &pb.RPC_SubOpts{Subscribe: &on, Topicid: &topic})
		}
		send(t, s, rpc)
	}
}

func addresses(from, to int) (topics []string) {
	for n := from; n < to; n++ {
		topics = append(topics, fmt.Sprintf("/orbitdb/zdpu%045d", n))
	}
	return topics
}

// remembered returns the bytes that count for the topics of all peers.
func (r *Router) remembered() int {
	r.in.mu.Lock()
	defer r.in.mu.Unlock()
	return r.in.bytes
}

func TestPeerMakesNoMoreTopicsRememberedThanItsBound(t *testing.T) {
	a, ha := newRouter(t, Options{SupportsBursts: patient})
	subscribeTo(t, a, topic)
	p := newRawPeer(t, pubsub.GossipSubID_v11)
	s := p.join(t, a, ha)
	knows := func(topic string) bool { return slices.Contains(a.ListPeers(topic), p.ID()) }

	many := addresses(0, 30000)
	tell(t, s, true, many...)
	tell(t, s, true, topic) // open here
	eventually(t, "the topic that is open is known", func() bool { return knows(topic) })
	known := 0
	for _, topic := range many {
		if knows(topic) {
			known++
		}
	}
	if cost := known * (len(many[0]) + topicCost); cost > peerTopicBytes || cost < peerTopicBytes/2 || cost != a.remembered() {
		t.Errorf("%d topics of %d bytes are known, %d bytes are counted", known, cost, a.remembered())
	}
	if n := a.in.ignored.Load(); n != uint64(len(many)-known) {
		t.Errorf("%d were ignored of %d", n, len(many)-known)
	}
	tell(t, s, true, many[0]) // again, which changes nothing
	tell(t, s, false, many[:100]...)
	tell(t, s, true, many[29990:]...)
	eventually(t, "a topic is known in place of another", func() bool { return knows(many[29999]) })
	if knows(many[0]) {
		t.Error("what it is not subscribed to any more is known")
	}
	must(t, s.Reset())
	eventually(t, "all is forgotten", func() bool { return a.remembered() == 0 && !knows(many[29999]) && !knows(topic) })
}

func TestMemoryForTopicsOfAllPeersIsBounded(t *testing.T) {
	a, ha := newRouter(t, Options{SupportsBursts: patient})
	a.in.all = 12 << 20
	topicOf := 0
	var streams []network.Stream
	for range 4 {
		p := newRawPeer(t, pubsub.GossipSubID_v11)
		s := p.join(t, a, ha)
		streams = append(streams, s)
		tell(t, s, true, addresses(topicOf, topicOf+27000)...)
		topicOf += 27000
		few := addresses(topicOf-27000, topicOf-27000+minTopicBytes/400)
		for _, topic := range few { // each is heard for the topics that it needs
			eventually(t, "the topic is known", func() bool { return slices.Contains(a.ListPeers(topic), p.ID()) })
		}
	}
	eventually(t, "the peers have their shares", func() bool {
		a.in.mu.Lock()
		defer a.in.mu.Unlock()
		most, share := 0, 0
		for _, p := range a.in.peers {
			if p.bytes > peerTopicBytes-1000 {
				most++
			}
			if p.bytes > minTopicBytes-1000 {
				share++
			}
		}
		return most == 1 && share == 4
	})
	if n := a.remembered(); n > 12<<20+2*minTopicBytes {
		t.Errorf("%d bytes are counted", n)
	}
	for _, s := range streams {
		s.Reset()
	}
	eventually(t, "nothing is counted", func() bool { return a.remembered() == 0 })
}

// A stock peer may be subscribed to as many topics as stock peers accept.
func TestAllTopicsOfAStockPeerAreRemembered(t *testing.T) {
	a, ha := newRouter(t, Options{SupportsBursts: patient})
	p := newRawPeer(t, pubsub.GossipSubID_v11)
	all := addresses(0, 7700)
	tell(t, p.join(t, a, ha), true, all...)
	for _, topic := range all {
		eventually(t, "the topic is known", func() bool { return slices.Contains(a.ListPeers(topic), p.ID()) })
	}
}

// When a peer opens a stream, pubsub visits all topics of all peers.
func TestPeerOpensFewStreamsInAWhile(t *testing.T) {
	ha, hb := loopback.Host(t), loopback.Host(t)
	o := newOutbound(ha, newInbound(newTopicSet(false)), Limits{}.withDefaults(), func(int) {})
	handled, refused, over := make(chan struct{}), make(chan struct{}), make(chan struct{})
	defer close(over)
	o.SetStreamHandler(pubsub.GossipSubID_v11, func(s network.Stream) {
		handled <- struct{}{}
		<-over
		s.Reset()
	})
	loopback.Connect(t, hb, ha)
	const opened = 2 * openBurst
	begin := time.Now()
	for range opened {
		s, err := hb.NewStream(testContext(t), ha.ID(), pubsub.GossipSubID_v11)
		must(t, err)
		go func() {
			s.Write([]byte{0})
			s.Read(make([]byte, 1)) // until it is reset
			select {
			case refused <- struct{}{}:
			case <-over:
			}
		}()
	}
	count := 0
	for range opened {
		select {
		case <-handled:
			count++
		case <-refused:
		case <-testContext(t).Done():
			t.Fatal("a stream is neither handled nor refused")
		}
	}
	if most := openBurst + openRate*(1+int(time.Since(begin)/time.Second)); count < openBurst || count > most {
		t.Errorf("%d streams were handled, want %d to %d", count, openBurst, most)
	}
}

// streamOf is a stream of a given peer.
type streamOf struct {
	network.Stream
	conn connOf
}

type connOf struct {
	network.Conn
	peer peer.ID
}

func (s streamOf) Conn() network.Conn { return s.conn }
func (c connOf) RemotePeer() peer.ID  { return c.peer }

func TestRateOfStreamsIsThatOfEachPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := newInbound(newTopicSet(false))
		begun := func(p peer.ID) (n int) {
			for range 100 {
				if s := (streamOf{conn: connOf{peer: p}}); in.begin(s) {
					in.end(s)
					n++
				}
			}
			return n
		}
		for _, p := range []peer.ID{"a", "b"} {
			if n := begun(p); n != openBurst {
				t.Errorf("%s: %d streams at once", p, n)
			}
		}
		time.Sleep(5 * time.Second) // of the synctest bubble
		if n := begun("a"); n != 5*openRate {
			t.Errorf("%d streams after 5 s", n)
		}
	})
}
