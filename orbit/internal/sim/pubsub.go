package sim

import (
	"context"
	"encoding/binary"
	"slices"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/orbit/internal/inventory"
	"github.com/newpieceplease/npp/router"
)

const (
	seenFor    = 2 * time.Minute // a message is accepted once
	meshedFrom = time.Second     // messages of others are forwarded to a subscriber
)

// takeFunc is the function of a follower; see [replicate.Router].
type takeFunc = func(context.Context, *pubsub.Message) bool

// pubsubRouter implements [replicate.Router]. w.mu guards it.
type pubsubRouter struct {
	h          *host
	followed   map[string]takeFunc
	peers      map[peer.ID]map[string]time.Time // topics of connected peers, and when they subscribed
	seen       map[digest]time.Time             // messages
	subscribed func(p peer.ID, topic string, on bool)
}

func newPubsubRouter(h *host) *pubsubRouter {
	return &pubsubRouter{h: h, followed: make(map[string]takeFunc), peers: make(map[peer.ID]map[string]time.Time), seen: make(map[digest]time.Time)}
}

// Follow implements [replicate.Router].
func (r *pubsubRouter) Follow(topic string, take func(context.Context, *pubsub.Message) bool) (stop func(), err error) {
	r.h.w.mu.Lock()
	defer r.h.w.mu.Unlock()
	r.followed[topic] = take
	r.h.changed()
	return func() {
		r.h.w.mu.Lock()
		defer r.h.w.mu.Unlock()
		delete(r.followed, topic)
		r.h.changed()
	}, nil
}

// note handles a change of the subscription of a peer.
func (r *pubsubRouter) note(p peer.ID, topic string, on bool) {
	r.h.w.mu.Lock()
	if r.peers[p] == nil {
		r.peers[p] = make(map[string]time.Time)
	}
	if on {
		r.peers[p][topic] = time.Now()
	} else {
		delete(r.peers[p], topic)
	}
	f := r.subscribed
	r.h.w.mu.Unlock()
	if f != nil {
		f(p, topic, on)
	}
}

// forget forgets the subscriptions of a peer. The caller holds w.mu.
func (r *pubsubRouter) forget(p peer.ID) { delete(r.peers, p) }

// OnSubscription implements [replicate.Router].
func (r *pubsubRouter) OnSubscription(f func(p peer.ID, topic string, on bool)) {
	r.h.w.mu.Lock()
	defer r.h.w.mu.Unlock()
	r.subscribed = f
}

// SeesAll implements [replicate.Router]. A node that does not speak the
// inventory follows the topics of all its databases.
func (r *pubsubRouter) SeesAll() bool { return r.h.node.speaks(inventory.Protocol) }

// Unmeshed implements [replicate.Router].
func (r *pubsubRouter) Unmeshed(topic string) []peer.ID {
	r.h.w.mu.Lock()
	defer r.h.w.mu.Unlock()
	return slices.DeleteFunc(sortedKeys(r.peers), func(p peer.ID) bool { return r.peers[p][topic].IsZero() || r.meshed(p, topic) })
}

func (r *pubsubRouter) meshed(p peer.ID, topic string) bool {
	since := r.peers[p][topic]
	return !since.IsZero() && time.Since(since) >= meshedFrom
}

// isSubscribed reports whether a connected peer that does not speak the
// inventory is subscribed to a topic.
func (r *pubsubRouter) isSubscribed(topic string) bool {
	r.h.w.mu.Lock()
	defer r.h.w.mu.Unlock()
	for p, topics := range r.peers {
		if c := r.h.conns[p]; c != nil && !topics[topic].IsZero() && !slices.Contains(c.other(r.h).mux.Protocols(), inventory.Protocol) {
			return true
		}
	}
	return false
}

// message is a pubsub message.
type message struct {
	id     digest
	author peer.ID
	topic  string
	data   []byte
}

// Announce implements [replicate.Router].
func (r *pubsubRouter) Announce(_ context.Context, topic string, data []byte) error {
	if len(data) > router.MaxMessageBytes {
		return router.ErrTooLarge
	}
	r.h.w.mu.Lock()
	defer r.h.w.mu.Unlock()
	m := message{r.h.w.now("message").text(string(r.h.id)).text(topic).bytes(data), r.h.id, topic, slices.Clone(data)}
	r.seen[m.id] = time.Now()
	for p, topics := range r.peers {
		if !topics[topic].IsZero() {
			r.pass(p, m)
		}
	}
	return nil
}

// pass sends a message to a peer. It may arrive never, late or twice. The
// caller holds w.mu.
func (r *pubsubRouter) pass(p peer.ID, m message) {
	c := r.h.conns[p]
	key := c.key(r.h, "publish").number(int64(m.id))
	to := c.other(r.h).pubsub
	if key.text("lost").share() < c.link.loss {
		return
	}
	c.send(r.h, key, "publish", time.Time{}, func() { to.receive(r.h.id, m) })
	if again := key.text("again"); again.share() < c.link.repeats {
		c.send(r.h, again, "publish again", time.Time{}, func() { to.receive(r.h.id, m) })
	}
}

// receive offers a message to the follower of its topic, and forwards it if the
// follower says so.
func (r *pubsubRouter) receive(from peer.ID, m message) {
	r.h.w.mu.Lock()
	defer r.h.w.mu.Unlock()
	take := r.followed[m.topic]
	if last, ok := r.seen[m.id]; take == nil || m.author == r.h.id || ok && time.Since(last) < seenFor {
		return
	}
	r.seen[m.id] = time.Now()
	seqno := binary.BigEndian.AppendUint64(nil, uint64(m.id))
	sent := &pubsub.Message{Message: &pb.Message{From: []byte(m.author), Data: m.data, Topic: &m.topic, Seqno: seqno}, ID: string(m.author) + string(seqno), ReceivedFrom: from}
	go func() {
		if !take(r.h.ctx, sent) {
			return
		}
		r.h.w.mu.Lock()
		defer r.h.w.mu.Unlock()
		for p := range r.peers {
			if p != from && p != m.author && r.meshed(p, m.topic) {
				r.pass(p, m)
			}
		}
	}()
}
