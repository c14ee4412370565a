package router

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/discovery"
	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// searchEvery is the least time between two searches for peers of a
	// followed topic.
	searchEvery = 10 * time.Minute
	// maxSearches is how many followed topics are searched or advertised at a
	// time.
	maxSearches = 8
)

// throttledDiscovery limits the searches for followed topics, of which there
// may be thousands: gossipsub searches for peers of each topic with too few of
// them once a second.
type throttledDiscovery struct {
	discovery.Discovery
	follows func(topic string) bool
	slots   chan struct{} // a token for each search in progress

	mu   sync.Mutex
	last map[string]time.Time // when a topic was last searched
}

func newThrottledDiscovery(d discovery.Discovery, follows func(topic string) bool) *throttledDiscovery {
	return &throttledDiscovery{Discovery: d, follows: follows, slots: make(chan struct{}, maxSearches), last: make(map[string]time.Time)}
}

// namespacePrefix is what gossipsub prepends to a topic.
const namespacePrefix = "floodsub:"

func (s *throttledDiscovery) Advertise(ctx context.Context, namespace string, opts ...discovery.Option) (time.Duration, error) {
	if s.follows(strings.TrimPrefix(namespace, namespacePrefix)) {
		select {
		case s.slots <- struct{}{}:
			defer func() { <-s.slots }()
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return s.Discovery.Advertise(ctx, namespace, opts...)
}

// FindPeers finds no peers if the last search for a followed topic began less
// than searchEvery ago, or if maxSearches are in progress.
func (s *throttledDiscovery) FindPeers(ctx context.Context, namespace string, opts ...discovery.Option) (<-chan peer.AddrInfo, error) {
	if !s.follows(strings.TrimPrefix(namespace, namespacePrefix)) {
		return s.Discovery.FindPeers(ctx, namespace, opts...)
	}
	found := make(chan peer.AddrInfo)
	if !s.begin(namespace) {
		close(found)
		return found, nil
	}
	all, err := s.Discovery.FindPeers(ctx, namespace, opts...)
	if err != nil {
		<-s.slots
		return nil, err
	}
	go func() {
		defer func() { <-s.slots }()
		defer close(found)
		for info := range all {
			select {
			case found <- info:
			case <-ctx.Done():
				return
			}
		}
	}()
	return found, nil
}

// begin takes a token for a search, unless it is too early or there is none.
func (s *throttledDiscovery) begin(namespace string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.last[namespace]) < searchEvery {
		return false
	}
	select {
	case s.slots <- struct{}{}:
	default:
		return false
	}
	s.last[namespace] = time.Now()
	return true
}
