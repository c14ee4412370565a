package router

import (
	"slices"
	"sync"
	"sync/atomic"

	lru "github.com/hashicorp/golang-lru/v2"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/time/rate"
)

// Bounds on what pubsub remembers of the topics that peers are subscribed to and that
// are not open here. Each costs its length and topicCost.
const (
	topicCost     = 256      // bytes that pubsub and this package hold besides the topic
	toldBytes     = 4 << 20  // of a peer
	allToldBytes  = 32 << 20 // of all peers; beyond that, toldShare of each
	toldShare     = 64 << 10
	openBurst     = 16   // streams that a peer may open at once,
	openRate      = 1    // and a second later on
	openersToHold = 1024 // peers whose rate is remembered
)

// inbound bounds what peers cost that open streams and subscribe to topics: pubsub
// remembers any number of topics for each peer, and looks at all of them whenever a
// peer opens another stream.
type inbound struct {
	open    func(topic string) bool // reports whether a topic is open here
	ignored atomic.Uint64           // subscriptions that were not remembered

	mu      sync.Mutex
	peers   map[peer.ID]*inPeer // that have a stream open
	openers *lru.Cache[peer.ID, *rate.Limiter]
	bytes   int // of all peers
	all     int // at most so many
}

// inPeer is a peer that has a stream open. [inbound.mu] guards it.
type inPeer struct {
	stream network.Stream // the newest
	topics map[string]bool
	bytes  int
}

func newInbound(open func(topic string) bool) *inbound {
	openers, _ := lru.New[peer.ID, *rate.Limiter](openersToHold) // fails for sizes below 1
	return &inbound{open: open, peers: make(map[peer.ID]*inPeer), openers: openers, all: allToldBytes}
}

// begin takes a stream that a peer has opened, and reports whether it may be read.
func (in *inbound) begin(s network.Stream) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	p := s.Conn().RemotePeer()
	opener, ok := in.openers.Get(p)
	if !ok {
		opener = rate.NewLimiter(openRate, openBurst)
		in.openers.Add(p, opener)
	}
	if !opener.Allow() {
		return false
	}
	in.forgetTopics(p)
	in.peers[p] = &inPeer{stream: s, topics: make(map[string]bool)}
	return true
}

// end takes that nothing is read from a stream any more.
func (in *inbound) end(s network.Stream) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if p := s.Conn().RemotePeer(); in.peers[p] != nil && in.peers[p].stream == s {
		in.forgetTopics(p)
		delete(in.peers, p)
	}
}

// stream returns the stream that a peer has open, or nil.
func (in *inbound) stream(p peer.ID) network.Stream {
	in.mu.Lock()
	defer in.mu.Unlock()
	if peer := in.peers[p]; peer != nil {
		return peer.stream
	}
	return nil
}

// forgetTopics takes that pubsub forgets what a peer is subscribed to. The caller
// holds in.mu.
func (in *inbound) forgetTopics(p peer.ID) {
	if peer := in.peers[p]; peer != nil {
		in.bytes -= peer.bytes
		peer.bytes = 0
		clear(peer.topics)
	}
}

// told returns those of a peer's subscriptions that pubsub is to remember. Pubsub is
// about to forget those of a peer that has no stream open.
func (in *inbound) told(p peer.ID, subs []*pb.RPC_SubOpts) []*pb.RPC_SubOpts {
	in.mu.Lock()
	defer in.mu.Unlock()
	peer := in.peers[p]
	if peer == nil {
		return subs
	}
	return slices.DeleteFunc(subs, func(s *pb.RPC_SubOpts) bool {
		topic := s.GetTopicid()
		cost := len(topic) + topicCost
		switch {
		case !s.GetSubscribe():
			if peer.topics[topic] {
				delete(peer.topics, topic)
				peer.bytes -= cost
				in.bytes -= cost
			}
			return false
		case peer.topics[topic] || in.open(topic):
			return false
		case peer.bytes+cost > toldBytes, in.bytes+cost > in.all && peer.bytes+cost > toldShare:
			if in.ignored.Add(1) == 1 {
				log.Warnw("subscription of a peer ignored: it is subscribed to too many topics", "peer", p)
			}
			return true
		}
		peer.topics[topic] = true
		peer.bytes += cost
		in.bytes += cost
		return false
	})
}
