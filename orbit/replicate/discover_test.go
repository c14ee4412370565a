package replicate_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/discovery"
	"github.com/libp2p/go-libp2p/core/host"
	libp2ppeer "github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/orbit"
)

// rendezvous is a discovery service.
type rendezvous struct {
	mu sync.Mutex
	at map[string][]libp2ppeer.AddrInfo // who advertised, by namespace
}

// of returns the service as a host uses it.
func (r *rendezvous) of(h host.Host) discovery.Discovery { return visitor{r, h} }

type visitor struct {
	*rendezvous
	host host.Host
}

func (v visitor) Advertise(_ context.Context, ns string, _ ...discovery.Option) (time.Duration, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.at[ns] = append(v.at[ns], libp2ppeer.AddrInfo{ID: v.host.ID(), Addrs: v.host.Addrs()})
	return time.Hour, nil
}

func (v visitor) FindPeers(_ context.Context, ns string, _ ...discovery.Option) (<-chan libp2ppeer.AddrInfo, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	found := make(chan libp2ppeer.AddrInfo, len(v.at[ns]))
	for _, info := range v.at[ns] {
		found <- info
	}
	close(found)
	return found, nil
}

func (r *rendezvous) has(ns string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.at[ns]) > 0
}

// A peer that the discovery service finds is connected to, and the database
// arrives. That is so for databases that were here at the start, and for new
// ones.
func TestDiscoveredPeerHasTheDatabase(t *testing.T) {
	for name, restarts := range map[string]bool{"new": false, "restarted": true} {
		t.Run(name, func(t *testing.T) {
			r := &rendezvous{at: make(map[string][]libp2ppeer.AddrInfo)}
			discovers := func(n *node) { n.found = r }
			a, b := newNodeAs(t, discovers), newNodeAs(t, discovers)
			address := a.create("gigs", orbit.TypeEvents).Address()
			a.add(address, "one")
			if restarts {
				eventually(t, "it is advertised", func() bool { return r.has("floodsub:" + address) })
				clear(r.at)
				a.restart()
			}
			eventually(t, "it is advertised", func() bool { return r.has("floodsub:" + address) })
			b.open(address)
			wantSame(t, address, 1, a, b)
		})
	}
}
