package replicate_test

import (
	"fmt"
	"testing"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/replicate"
)

// The peers of databases at rest are known as well: those that have them open,
// and whether they are in sync.
func TestPeersOfDatabasesAtRestAreKnown(t *testing.T) {
	const databases = 20
	a, b := newNode(t), newNode(t)
	open := make(map[string]bool)
	for i := range databases {
		open[a.create(fmt.Sprint("gigs", i), orbit.TypeEvents).Address()] = true
		b.create(fmt.Sprint("gigs", i), orbit.TypeEvents)
	}
	b.connect(a)
	eventually(t, "all are open and in sync at a", func() bool {
		inSync := 0
		for address, peers := range b.Replicator.Peers(t.Context()) {
			if len(peers) != 1 || peers[0].ID != a.host.ID() || !open[address] {
				t.Fatalf("%s: %+v", address, peers)
			}
			if peers[0].Open && !peers[0].InSync.IsZero() && peers[0].By == replicate.ByState {
				inSync++
			}
		}
		return inSync == databases
	})
	for address := range open {
		if s := b.StateOf(t.Context(), address); s.State != replicate.Open || s.Address != address {
			t.Errorf("%+v", s)
		}
	}
	if all := b.Remarkable(t.Context()); len(all) != 0 {
		t.Errorf("%d replicas run, or ran", len(all))
	}
	b.disconnect(a)
	eventually(t, "none is open at a", func() bool {
		for range b.Replicator.Peers(t.Context()) {
			return false
		}
		return true
	})
}
