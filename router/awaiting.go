package router

import (
	"slices"
	"sync"

	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/proto"
)

// awaiting bounds the bytes of the messages of peers that await validation: pubsub
// bounds their number alone. It learns from [Router.inspect] which messages came, and
// from the tracer which were looked at.
type awaiting struct {
	limits Limits
	joined func(topic string) bool // reports whether pubsub takes messages of a topic

	mu       sync.Mutex
	messages map[*pb.Message]awaited
	of       map[peer.ID]int // bytes of a peer
	bytes    int             // of all
}

// awaited is a message that awaits validation.
type awaited struct {
	from peer.ID
	size int
}

func newAwaiting(limits Limits, joined func(topic string) bool) *awaiting {
	return &awaiting{limits: limits, joined: joined, messages: make(map[*pb.Message]awaited), of: make(map[peer.ID]int)}
}

// admit returns those messages of a peer for which there is room, and how many there
// was none for.
func (a *awaiting) admit(from peer.ID, messages []*pb.Message) (admitted []*pb.Message, dropped int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	admitted = slices.DeleteFunc(messages, func(m *pb.Message) bool {
		if !a.joined(m.GetTopic()) {
			return false // pubsub drops it at once
		}
		size := proto.Size(m)
		if a.of[from]+size > a.limits.PeerBytes || a.bytes+size > a.limits.AllBytes {
			dropped++
			return true
		}
		a.messages[m] = awaited{from, size}
		a.of[from] += size
		a.bytes += size
		return false
	})
	return admitted, dropped
}

// done takes that a message does not await validation any more.
func (a *awaiting) done(m *pb.Message) {
	a.mu.Lock()
	defer a.mu.Unlock()
	w, ok := a.messages[m]
	if !ok {
		return
	}
	delete(a.messages, m)
	a.bytes -= w.size
	if a.of[w.from] -= w.size; a.of[w.from] == 0 {
		delete(a.of, w.from)
	}
}
