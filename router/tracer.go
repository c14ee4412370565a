package router

import (
	"sync"
	"sync/atomic"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// Drops counts the messages that the router lost since it started, and the
// streams that it reset.
type Drops struct {
	Outbound   uint64 `json:"outbound"`   // a peer's outbound queue was full, or the peer did not read
	Validation uint64 `json:"validation"` // the validation queue was full
	Subscriber uint64 `json:"subscriber"` // a subscriber was too slow
	Streams    uint64 `json:"streams"`    // streams that were reset because their peers did not read
}

// tracer counts losses, logs the first of each kind, and records the mesh. It
// reports pubsub's events to the other parts of the router.
type tracer struct {
	topics     *topicSet
	out        *outbound
	validating *validationBudget

	outbound, validation, subscriber atomic.Uint64

	mu   sync.Mutex
	mesh map[string]map[peer.ID]bool // by topic
}

var _ pubsub.RawTracer = (*tracer)(nil)

func (t *tracer) counts() Drops {
	return Drops{Outbound: t.outbound.Load(), Validation: t.validation.Load(), Subscriber: t.subscriber.Load(), Streams: t.out.resets.Load()}
}

// meshed reports whether messages of a topic are forwarded to a peer.
func (t *tracer) meshed(topic string, p peer.ID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.mesh[topic][p]
}

func (t *tracer) DropRPC(rpc *pubsub.RPC, p peer.ID) {
	if n := uint64(len(rpc.GetPublish())); n > 0 && t.outbound.Add(n) == n {
		log.Warnw("pubsub messages dropped: outbound queue full", "peer", p)
	}
}

func (t *tracer) RejectMessage(m *pubsub.Message, reason string) {
	t.validating.done(m.Message)
	if reason == pubsub.RejectValidationQueueFull || reason == pubsub.RejectValidationThrottled {
		t.dropValidation(1)
	}
}

func (t *tracer) dropValidation(messages int) {
	if n := uint64(messages); n > 0 && t.validation.Add(n) == n {
		log.Warn("pubsub message dropped: too many await validation")
	}
}

func (t *tracer) UndeliverableMessage(m *pubsub.Message) {
	if t.subscriber.Add(1) == 1 {
		log.Warnw("pubsub message dropped: subscriber too slow", "topic", m.GetTopic())
	}
}

func (t *tracer) Graft(p peer.ID, topic string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mesh[topic] == nil {
		t.mesh[topic] = make(map[peer.ID]bool)
	}
	t.mesh[topic][p] = true
}

func (t *tracer) Prune(p peer.ID, topic string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if delete(t.mesh[topic], p); len(t.mesh[topic]) == 0 {
		delete(t.mesh, topic)
	}
}

// OnClosedOutboundStream removes a peer from the mesh. Gossipsub does not call
// Prune in that case.
func (t *tracer) OnClosedOutboundStream(p peer.ID) {
	t.out.closed(p)
	t.mu.Lock()
	defer t.mu.Unlock()
	for topic, peers := range t.mesh {
		if delete(peers, p); len(peers) == 0 {
			delete(t.mesh, topic)
		}
	}
}

// Join makes a topic of `ipfs pubsub sub` known to all peers. Pubsub has queued
// its own announcement, which may have been withheld before this call.
func (t *tracer) Join(topic string) {
	if t.topics.join(topic) {
		t.out.tellAll(topic)
	}
}

func (t *tracer) Leave(topic string)                     { t.topics.leave(topic) }
func (t *tracer) SendRPC(rpc *pubsub.RPC, p peer.ID)     { t.out.queued(rpc, p) }
func (*tracer) OnNewOutboundStream(peer.ID, protocol.ID) {}
func (t *tracer) ValidateMessage(m *pubsub.Message)      { t.validating.done(m.Message) }
func (t *tracer) DuplicateMessage(m *pubsub.Message)     { t.validating.done(m.Message) }
func (*tracer) DeliverMessage(*pubsub.Message)           {}
func (*tracer) ThrottlePeer(peer.ID)                     {}
func (*tracer) RecvRPC(*pubsub.RPC)                      {}
