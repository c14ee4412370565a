package replicate

import (
	"maps"
	"slices"
	"sync"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/internal/negotiate"
	"github.com/newpieceplease/npp/orbit/internal/inventory"
)

// interest has the connected peers that are subscribed to topics of databases
// and are not known to speak the inventory protocol. Such a peer has the
// database open: its replica starts, and subscribes to the topic as well. A
// peer that speaks the protocol tells by its inventory which databases it has
// open. It is subscribed to some topics for the sake of other peers, which means
// nothing here.
//
// A subscription may arrive before the protocols of the peer are known, before
// the index is complete, and before the database is replicated. So interest
// remembers the subscriptions of each peer to topics that are addresses. The
// router bounds them.
type interest struct {
	r     *Replicator
	order sync.Mutex // held while replicas are told, so that they are told in order

	mu    sync.Mutex
	peers map[peer.ID]*subscriptions
}

// maxSubscriptions bounds the remembered subscriptions of a peer.
const maxSubscriptions = 1 << 15

// subscriptions are the topics of a peer that are addresses.
type subscriptions struct {
	topics map[inventory.Key]bool
	taken  bool // the replicas were told: the peer does not speak the protocol
}

func newInterest(r *Replicator) *interest {
	return &interest{r: r, peers: make(map[peer.ID]*subscriptions)}
}

// subscription notes that a peer subscribed to a topic, or unsubscribed. The
// router waits for it. The peer may have disconnected before.
func (i *interest) subscription(p peer.ID, topic string, on bool) {
	k, ok := keyOf(topic)
	if !ok {
		return
	}
	defer i.disconnected(p)
	i.order.Lock()
	defer i.order.Unlock()
	if i.note(p, k, on) {
		i.r.subscription(p, k, on)
	} else {
		i.take(p)
	}
}

// note notes a subscription, and reports whether the replicas were told of
// those of the peer.
func (i *interest) note(p peer.ID, k inventory.Key, on bool) (taken bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	s := i.peers[p]
	if s == nil {
		s = &subscriptions{topics: make(map[inventory.Key]bool)}
		i.peers[p] = s
	}
	switch {
	case !on:
		delete(s.topics, k)
	case len(s.topics) < maxSubscriptions:
		s.topics[k] = true
	}
	return s.taken
}

// decide tells the replicas of the subscriptions of a peer, once it is known
// that the peer does not speak the inventory protocol.
func (i *interest) decide(p peer.ID) {
	i.order.Lock()
	defer i.order.Unlock()
	i.take(p)
}

// decideAll is decide for all peers.
func (i *interest) decideAll() {
	i.mu.Lock()
	peers := slices.Sorted(maps.Keys(i.peers))
	i.mu.Unlock()
	for _, p := range peers {
		i.decide(p)
	}
}

// take is decide for a caller that holds i.order.
func (i *interest) take(p peer.ID) {
	if !i.r.isLoaded() {
		return
	}
	speaks := negotiate.MaySpeak(i.r.cfg.Host, p, inventory.Protocol) && !i.r.identification.hasFailed(p)
	for _, k := range i.setTaken(p, !speaks) {
		i.r.subscription(p, k, !speaks)
	}
}

// setTaken sets whether the replicas are told of the subscriptions of a peer,
// and returns those that they are to be told of because that changed.
func (i *interest) setTaken(p peer.ID, taken bool) []inventory.Key {
	i.mu.Lock()
	defer i.mu.Unlock()
	s := i.peers[p]
	if s == nil || s.taken == taken {
		return nil
	}
	s.taken = taken
	return slices.SortedFunc(maps.Keys(s.topics), inventory.Key.Compare)
}

// added tells the replica of a database that is replicated from now on which
// peers are subscribed to its topic.
func (i *interest) added(k inventory.Key) {
	i.order.Lock()
	defer i.order.Unlock()
	for _, p := range i.subscribers(k) {
		i.r.subscription(p, k, true)
	}
}

// seed tells a replica that started which peers are subscribed to its topic.
func (i *interest) seed(rp *replica) {
	i.order.Lock()
	defer i.order.Unlock()
	for _, p := range i.subscribers(rp.key) {
		rp.subscription(p, true)
	}
}

// subscribers returns the peers that do not speak the protocol and are
// subscribed to the topic of a database, in order.
func (i *interest) subscribers(k inventory.Key) (peers []peer.ID) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for p, s := range i.peers {
		if s.taken && s.topics[k] {
			peers = append(peers, p)
		}
	}
	slices.Sort(peers)
	return peers
}

// disconnected forgets a peer, unless it is connected again: then it may have
// subscribed already.
func (i *interest) disconnected(p peer.ID) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.r.cfg.Host.Network().Connectedness(p) == network.NotConnected {
		delete(i.peers, p)
	}
}

// subscription tells the replica of a database that a peer subscribed to its
// topic, or unsubscribed. It starts the replica of a database that is
// replicated, if the peer subscribed.
func (r *Replicator) subscription(p peer.ID, k inventory.Key, on bool) {
	if !on {
		if rp := r.find(addressOf(k)); rp != nil {
			rp.subscription(p, false)
		}
		return
	}
	if rp, release := r.acquire(addressOf(k)); rp != nil {
		rp.subscription(p, true)
		release()
	}
}
