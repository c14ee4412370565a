package router

import (
	"context"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/discovery"
	"github.com/libp2p/go-libp2p/core/peer"
)

// topicDiscovery leaves out the topics that are only followed, of which there
// may be thousands: gossipsub advertises each topic, and searches for peers of
// each topic with few of them once a second. The follower of a topic searches
// for its peers.
type topicDiscovery struct {
	discovery.Discovery
	leaves func(topic string) bool
}

// namespacePrefix is what gossipsub prepends to a topic.
const namespacePrefix = "floodsub:"

// advertiseAgain is the time after which gossipsub advertises a topic that was
// left out, if it is not only followed by then.
const advertiseAgain = 2 * time.Minute

func (d topicDiscovery) leavesOut(namespace string) bool {
	return d.leaves(strings.TrimPrefix(namespace, namespacePrefix))
}

// Advertise implements [discovery.Advertiser].
func (d topicDiscovery) Advertise(ctx context.Context, namespace string, opts ...discovery.Option) (time.Duration, error) {
	if d.leavesOut(namespace) {
		return advertiseAgain, nil
	}
	return d.Discovery.Advertise(ctx, namespace, opts...)
}

// FindPeers implements [discovery.Discoverer].
func (d topicDiscovery) FindPeers(ctx context.Context, namespace string, opts ...discovery.Option) (<-chan peer.AddrInfo, error) {
	if d.leavesOut(namespace) {
		none := make(chan peer.AddrInfo)
		close(none)
		return none, nil
	}
	return d.Discovery.FindPeers(ctx, namespace, opts...)
}
