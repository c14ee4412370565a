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
	// searchEvery is how often peers of a followed topic are looked for.
	searchEvery = 10 * time.Minute
	// maxSearches is how many followed topics are looked for or made known at
	// once.
	maxSearches = 8
)

// sparing is a discovery that spends little on topics that are followed, of which
// there may be thousands: gossipsub looks for peers of each topic that has too few,
// once a second.
type sparing struct {
	discovery.Discovery
	follows func(topic string) bool
	slots   chan struct{} // holds a token for each that runs

	mu   sync.Mutex
	last map[string]time.Time // when a topic was looked for
}

func newSparing(d discovery.Discovery, follows func(topic string) bool) *sparing {
	return &sparing{Discovery: d, follows: follows, slots: make(chan struct{}, maxSearches), last: make(map[string]time.Time)}
}

// namespacePrefix is what gossipsub puts in front of a topic.
const namespacePrefix = "floodsub:"

func (s *sparing) Advertise(ctx context.Context, namespace string, opts ...discovery.Option) (time.Duration, error) {
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

// FindPeers finds nobody where a followed topic was looked for less than searchEvery
// ago, or where maxSearches run.
func (s *sparing) FindPeers(ctx context.Context, namespace string, opts ...discovery.Option) (<-chan peer.AddrInfo, error) {
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

// begin takes a slot for a namespace whose turn it is.
func (s *sparing) begin(namespace string) bool {
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
