package replicate

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/discovery"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/internal/task"
	"github.com/newpieceplease/npp/orbit/internal/inventory"
)

// lonely is a discovery service that finds nobody, and records what it was
// asked for.
type lonely struct {
	mu                   sync.Mutex
	advertised, searched []string
}

func (l *lonely) Advertise(_ context.Context, ns string, _ ...discovery.Option) (time.Duration, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.advertised = append(l.advertised, ns)
	return time.Hour, nil
}

func (l *lonely) FindPeers(_ context.Context, ns string, _ ...discovery.Option) (<-chan peer.AddrInfo, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.searched = append(l.searched, ns)
	none := make(chan peer.AddrInfo)
	close(none)
	return none, nil
}

// take returns what was asked for since the last call.
func (l *lonely) take() (advertised, searched []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	advertised, searched = l.advertised, l.searched
	l.advertised, l.searched = nil, nil
	return advertised, searched
}

// discovering runs the discovery of a Replicator with n databases, and calls
// test. before is called before it runs.
func discovering(t *testing.T, n int, before, test func(r *Replicator, l *lonely)) {
	synctest.Test(t, func(t *testing.T) {
		l := new(lonely)
		r := &Replicator{
			cfg: Config{Discovery: l}, tasks: task.NewGroup(), random: &random{source: rand.NewPCG(1, 2)},
			index: newIndex(nil), loaded: make(chan struct{}),
			toSearch: make(chan string, maxUrgent), toAdvertise: make(chan string, maxUrgent),
		}
		r.links, r.interest = newLinks(r), newInterest(r)
		for i := range n {
			r.index.add(numberedKey(i))
		}
		before(r, l)
		close(r.loaded)
		r.tasks.Go(r.discover)
		synctest.Wait()
		test(r, l)
		r.tasks.Stop()
		r.tasks.Wait()
	})
}

func numberedKey(i int) inventory.Key { return inventory.Key{byte(i), byte(i >> 8), 1} }

func nothing(*Replicator, *lonely) {}

// All databases together are advertised and searched for at a bounded rate.
func TestDiscoveryHasABoundedRate(t *testing.T) {
	const databases = 5000
	discovering(t, databases, nothing, func(_ *Replicator, l *lonely) {
		all := [2]map[string]bool{make(map[string]bool), make(map[string]bool)}
		count := func(atMost int) {
			t.Helper()
			advertised, searched := l.take()
			for i, asked := range [][]string{advertised, searched} {
				if len(asked) > atMost {
					t.Errorf("%d requests, want %d at most", len(asked), atMost)
				}
				for _, ns := range asked {
					if all[i][ns] {
						t.Errorf("%s was asked for twice before others", ns)
					}
					all[i][ns] = true
				}
			}
		}
		count(discoverBurst)
		const hours = 13
		for range hours {
			time.Sleep(time.Hour)
			count(int(time.Hour/discoverEvery) + 1)
		}
		for i := range all {
			if len(all[i]) < hours*int(time.Hour/discoverEvery) {
				t.Errorf("%d databases were asked for", len(all[i]))
			}
		}
	})
}

// A database is searched for and advertised once in an interval, however few
// there are.
func TestFewDatabasesAreDiscoveredSparingly(t *testing.T) {
	const databases, hours = 3, 12
	discovering(t, databases, nothing, func(_ *Replicator, l *lonely) {
		time.Sleep(hours * time.Hour)
		advertised, searched := l.take()
		const slack = 2 // intervals vary by half
		if n := databases * hours * int(time.Hour) / int(advertiseEvery); len(advertised) > slack*n || len(advertised) < n/slack {
			t.Errorf("%d advertisements, want about %d", len(advertised), n)
		}
		if n := databases * hours * int(time.Hour/searchEvery); len(searched) > slack*n || len(searched) < n/slack {
			t.Errorf("%d searches, want about %d", len(searched), n)
		}
	})
}

// Wanted and new databases come first.
func TestWantedDatabasesAreSearchedFirst(t *testing.T) {
	wanted, late := addressOf(numberedKey(4000)), addressOf(inventory.Key{1, 2, 3})
	discovering(t, 5000, func(r *Replicator, _ *lonely) { r.searchSoon(wanted) }, func(r *Replicator, l *lonely) {
		if _, searched := l.take(); !slices.Contains(searched, namespace(wanted)) {
			t.Error("a wanted database was not searched for first")
		}
		r.replicates(late)
		time.Sleep(3 * discoverEvery)
		advertised, searched := l.take()
		for _, asked := range [][]string{advertised, searched} {
			if !slices.Contains(asked, namespace(late)) {
				t.Errorf("a new database was not among %d that were asked for", len(asked))
			}
		}
	})
}

// A database that a connected peer has open is advertised, and not searched
// for.
func TestDatabaseOfAConnectedPeerIsNotSearched(t *testing.T) {
	const databases = 10
	k := numberedKey(3)
	discovering(t, databases, func(r *Replicator, _ *lonely) {
		r.interest.peers["peer"] = &subscriptions{topics: map[inventory.Key]bool{k: true}, taken: true}
	}, func(_ *Replicator, l *lonely) {
		advertised, searched := l.take()
		if len(advertised) != databases || len(searched) != databases-1 || slices.Contains(searched, namespace(addressOf(k))) {
			t.Errorf("%d were advertised, and %d searched: %v", len(advertised), len(searched), searched)
		}
	})
}
