package replicate

import (
	"context"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Router is the pubsub router that replication uses. A router.Router implements
// it.
type Router interface {
	// Follow subscribes to a topic until stop is called. take is called for
	// each message of another peer, concurrently, and reports whether to
	// forward it. It may block for up to half a minute.
	Follow(topic string, take func(context.Context, *pubsub.Message) bool) (stop func(), err error)
	// Announce publishes a message on a topic. The message may get lost.
	Announce(ctx context.Context, topic string, data []byte) error
	// OnSubscription sets the function that is called when a connected peer
	// subscribes to a topic or unsubscribes; nil for none. The function does
	// not block.
	OnSubscription(func(p peer.ID, topic string, on bool))
	// SeesAll reports whether that function is called for all topics. If not,
	// it is called for topics that are followed, so all databases are followed
	// and none of them rests.
	SeesAll() bool
	// Unmeshed returns the connected subscribers of a topic to which messages
	// of other peers are not forwarded now.
	Unmeshed(topic string) []peer.ID
}
