package router

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/internal/admission"
)

// Bounds on the subscriptions of peers to topics that this peer is not
// subscribed to. Each subscription costs the length of its topic and topicCost.
// The address of a database costs 314 bytes.
const (
	topicCost         = 256      // bytes that pubsub and this package need besides the topic
	peerTopicBytes    = 8 << 20  // per peer: 26 000 databases
	allTopicBytes     = 32 << 20 // of all peers: 106 000 databases; above it, minTopicBytes per peer
	minTopicBytes     = 64 << 10
	openBurst         = 16       // streams that a peer may open at once
	openRate          = 1        // streams that it may open per second afterwards
	rememberedOpeners = 1024     // peers whose rate limiter is remembered
	maxOpeners        = 64 << 10 // peers that have a rate limiter
)

// inbound bounds the cost of peers that open streams and subscribe to topics.
// Pubsub itself remembers any number of topics per peer, and visits all of them
// whenever a peer opens a stream.
type inbound struct {
	topics  *topicSet
	ignored atomic.Uint64 // subscriptions that were ignored

	mu      sync.Mutex
	peers   map[peer.ID]*inPeer // peers with an open stream
	openers *admission.Rates
	bytes   int // of all peers
	all     int // the bound of bytes
}

// inPeer is a peer that has a stream open. [inbound.mu] guards it.
type inPeer struct {
	stream network.Stream  // the newest one
	topics map[string]bool // those that it is subscribed to: whether it counts
	bytes  int             // of those that count
}

func newInbound(topics *topicSet) *inbound {
	return &inbound{topics: topics, peers: make(map[peer.ID]*inPeer), openers: admission.NewRates(openRate, openBurst, rememberedOpeners, maxOpeners), all: allTopicBytes}
}

// begin registers a stream that a peer opened. It reports whether the peer may
// open one now.
func (in *inbound) begin(s network.Stream) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	p := s.Conn().RemotePeer()
	if in.openers.Take(p, time.Now()) > 0 {
		return false
	}
	in.forgetTopics(p)
	in.peers[p] = &inPeer{stream: s, topics: make(map[string]bool)}
	return true
}

// end removes a stream that was closed.
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

// forgetTopics removes the topics of a peer, as pubsub does when the peer opens
// another stream or none is left. The caller holds in.mu.
func (in *inbound) forgetTopics(p peer.ID) {
	if peer := in.peers[p]; peer != nil {
		in.bytes -= peer.bytes
		peer.bytes = 0
		clear(peer.topics)
	}
}

// isSubscribed reports whether a peer is subscribed to a topic.
func (in *inbound) isSubscribed(p peer.ID, topic string) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	peer := in.peers[p]
	if peer == nil {
		return false
	}
	_, ok := peer.topics[topic]
	return ok
}

// shared returns the topics to which both this peer and p are subscribed,
// sorted.
func (in *inbound) shared(p peer.ID) (topics []string) {
	in.mu.Lock()
	defer in.mu.Unlock()
	peer := in.peers[p]
	if peer == nil {
		return nil
	}
	for topic := range peer.topics {
		if in.topics.isJoined(topic) {
			topics = append(topics, topic)
		}
	}
	slices.Sort(topics)
	return topics
}

// subscriptions returns the topics that peers are subscribed to.
func (in *inbound) subscriptions() map[peer.ID][]string {
	in.mu.Lock()
	defer in.mu.Unlock()
	all := make(map[peer.ID][]string, len(in.peers))
	for p, peer := range in.peers {
		all[p] = slices.Collect(maps.Keys(peer.topics))
	}
	return all
}

// accepted returns those of a peer's subscriptions that pubsub is to remember.
// Pubsub is about to forget those of a peer that has no stream open.
func (in *inbound) accepted(p peer.ID, subs []*pb.RPC_SubOpts) []*pb.RPC_SubOpts {
	in.mu.Lock()
	defer in.mu.Unlock()
	peer := in.peers[p]
	if peer == nil {
		return subs
	}
	return slices.DeleteFunc(subs, func(s *pb.RPC_SubOpts) bool {
		topic := s.GetTopicid()
		cost := len(topic) + topicCost
		counts, known := peer.topics[topic]
		if !s.GetSubscribe() {
			if delete(peer.topics, topic); counts {
				peer.bytes -= cost
				in.bytes -= cost
			}
			return false
		}
		if known {
			return false
		}
		if name, open := in.topics.open(topic); open {
			peer.topics[name] = false
			return false
		}
		if peer.bytes+cost > peerTopicBytes || in.bytes+cost > in.all && peer.bytes+cost > minTopicBytes {
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
