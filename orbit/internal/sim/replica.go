package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/ipfs/boxo/blockstore"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/internal/reconcile"
	"github.com/newpieceplease/npp/orbit/replicate"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/store/storetest"
)

// replica is an honest node, like a daemon with npp.
type replica struct {
	*node
	disk  *storetest.Disk
	opens []*database // databases that its owner opened
	*running
}

// running is the running part of a replica.
type running struct {
	orbit  *orbit.Orbit
	repl   *replicate.Replicator
	stores []*store.Store
	killed bool
}

// moments is a source of random numbers that depend on the time alone, so the
// order of concurrent calls does not matter.
type moments struct {
	chance digest
	begun  time.Time
	last   time.Time
	drawn  int // numbers drawn at that time
}

// Uint64 implements [rand.Source]. The number changes after 1024 calls at the
// same time, for callers that reject it again and again.
func (m *moments) Uint64() uint64 {
	if now := time.Now(); !now.Equal(m.last) {
		m.last, m.drawn = now, 0
	}
	m.drawn++
	return m.chance.number(int64(m.last.Sub(m.begun))).number(int64(m.drawn / 1024)).mixed()
}

var _ rand.Source = (*moments)(nil)

// start starts a replica.
func (r *replica) start() error {
	ctx := context.Background()
	r.disk.FailAfter(0, storetest.Once)
	h := r.up()
	orbitStore, ownStore := store.New(r.disk, "/orbit"), store.New(r.disk, "/replicate")
	under := orbit.Overlay(blockstore.NewBlockstore(r.disk), orbitStore)
	n := &running{stores: []*store.Store{orbitStore, ownStore}}
	var err error
	if n.orbit, err = orbit.New(ctx, orbit.Config{Store: orbitStore, Keystore: r.keystore(), Source: under, Announce: h.swap.NotifyNewBlocks}); err != nil {
		return fmt.Errorf("%s: %w", r.name, err)
	}
	h.swap.serve(func(c cid.Cid) (blocks.Block, bool) {
		b, err := under.Get(ctx, c)
		return b, err == nil
	})
	n.repl, err = replicate.New(ctx, replicate.Config{
		Orbit: n.orbit, Store: ownStore, Host: h, Router: h.pubsub, Exchange: h.swap,
		LargeHeads: func(p peer.ID) bool { return h.knows(p, reconcile.Protocol) },
		Rand:       &moments{chance: r.chance, begun: r.w.begun},
	})
	if err != nil {
		return fmt.Errorf("%s: %w", r.name, err)
	}
	r.running = n
	return nil
}

// end closes all of it.
func (n *running) end() {
	n.repl.Close()
	n.orbit.Close()
	for _, s := range n.stores {
		s.Close()
	}
}

// stop stops a replica in an orderly way.
func (r *replica) stop() {
	if n := r.running; n != nil {
		r.running = nil
		r.down(noticeStop)
		n.end()
	}
}

// kill ends a replica by a power loss. Its running part loses its disk.
func (r *replica) kill(rng *rand.Rand) {
	if n := r.running; n != nil {
		r.running = nil
		n.killed = true
		r.down(noticeCut)
		r.disk = r.disk.PowerLoss(rng)
		go n.end()
	}
}

// open opens a database, or has it fetched.
func (r *replica) open(b *database) {
	if !slices.Contains(r.opens, b) {
		r.opens = append(r.opens, b)
	}
	if n := r.running; n != nil {
		n.repl.Open(context.Background(), b.address, orbit.OpenOptions{}) // fails if the disk does; heal opens it again
	}
}

// lacks reports whether a database is not here, or was closed.
func (r *replica) lacks(b *database) bool {
	_, err := r.orbit.Resolve(context.Background(), b.address)
	return err != nil || r.repl.StateOf(context.Background(), b.address).State == replicate.Closed
}

// database returns an open database, or nil.
func (r *replica) database(b *database) *orbit.Database {
	if r.running == nil {
		return nil
	}
	db, err := r.orbit.Find(context.Background(), b.address)
	if err != nil {
		return nil
	}
	return db
}
