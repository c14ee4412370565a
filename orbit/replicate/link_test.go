package replicate_test

import (
	"context"
	"iter"
	"slices"
	"testing"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/inventory"
	"github.com/newpieceplease/npp/orbit/internal/manifest"
	"github.com/newpieceplease/npp/test/loopback"
)

// claimant is a daemon with one database, the state of which it cannot read
// before it may.
type claimant struct {
	key   inventory.Key
	asked chan struct{} // receives a token when the state is read
	may   chan struct{} // closed when the state can be read
	heard chan inventory.State
}

func newClaimant(t *testing.T, address string) *claimant {
	t.Helper()
	hash, err := manifest.ParseAddress(address)
	must(t, err)
	key, err := block.Digest(hash)
	must(t, err)
	return &claimant{key, make(chan struct{}, 8), make(chan struct{}), make(chan inventory.State, 8)}
}

func (c *claimant) Len() int                      { return 1 }
func (c *claimant) Keys() iter.Seq[inventory.Key] { return slices.Values([]inventory.Key{c.key}) }

func (c *claimant) State(ctx context.Context, _ inventory.Key) inventory.State {
	c.asked <- struct{}{}
	select {
	case <-c.may:
	case <-ctx.Done():
	}
	return inventory.State{} // it is not here, so the peer has nothing to catch up with
}

func (c *claimant) Common(_ inventory.Key, theirs inventory.State) { c.heard <- theirs }
func (c *claimant) Gone(inventory.Key)                             {}
func (c *claimant) Changed(_ inventory.Key, theirs inventory.State, _ []block.Block) {
	c.heard <- theirs
}

// A daemon hears of a change that happens after the databases of both were
// matched and before it has confirmed that.
func TestChangeBeforeConfirmation(t *testing.T) {
	n := newNode(t)
	address := n.create("gigs", orbit.TypeEvents).Address()
	for _, name := range []string{"songs", "people"} { // so that the other daemon has fewer
		n.create(name, orbit.TypeEvents)
	}
	h := loopback.Host(t)
	loopback.Connect(t, h, n.host)
	c := newClaimant(t, address)
	s, err := inventory.Open(testContext(t), h, n.host.ID(), inventory.Config{Catalog: c, Handler: c, Passes: inventory.NewPasses()})
	must(t, err)
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	<-c.asked
	n.add(address, "Holst")
	close(c.may)
	fingerprint, err := n.Fingerprint(t.Context(), address)
	must(t, err)
	for want := inventory.State(fingerprint[:len(inventory.State{})]); ; {
		select {
		case state := <-c.heard:
			if state == want {
				return
			}
		case err := <-ended:
			t.Fatalf("the change is lost: %v", err)
		}
	}
}
