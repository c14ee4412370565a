package router

import (
	"slices"
	"sync"

	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/proto"
)

// validationBudget bounds the bytes of inbound messages that await validation;
// pubsub bounds only their number. [Router.inspect] reports the messages that
// arrive, and the tracer those that were validated.
type validationBudget struct {
	limits Limits
	joined func(topic string) bool // reports whether pubsub is subscribed to a topic

	mu       sync.Mutex
	messages map[*pb.Message]queuedMessage
	byPeer   map[peer.ID]int // bytes
	bytes    int             // of all peers
}

// queuedMessage is a message that awaits validation.
type queuedMessage struct {
	from peer.ID
	size int
}

func newValidationBudget(limits Limits, joined func(topic string) bool) *validationBudget {
	return &validationBudget{limits: limits, joined: joined, messages: make(map[*pb.Message]queuedMessage), byPeer: make(map[peer.ID]int)}
}

// admit returns the messages of a peer that fit into the budget, and the number
// of the others.
func (a *validationBudget) admit(from peer.ID, messages []*pb.Message) (admitted []*pb.Message, dropped int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	admitted = slices.DeleteFunc(messages, func(m *pb.Message) bool {
		if !a.joined(m.GetTopic()) {
			return false // pubsub drops it without validation
		}
		size := proto.Size(m)
		if a.byPeer[from]+size > a.limits.PeerBytes || a.bytes+size > a.limits.AllBytes {
			dropped++
			return true
		}
		a.messages[m] = queuedMessage{from, size}
		a.byPeer[from] += size
		a.bytes += size
		return false
	})
	return admitted, dropped
}

// done removes a message that was validated.
func (a *validationBudget) done(m *pb.Message) {
	a.mu.Lock()
	defer a.mu.Unlock()
	w, ok := a.messages[m]
	if !ok {
		return
	}
	delete(a.messages, m)
	a.bytes -= w.size
	if a.byPeer[w.from] -= w.size; a.byPeer[w.from] == 0 {
		delete(a.byPeer, w.from)
	}
}
