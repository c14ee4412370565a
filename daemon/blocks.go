package daemon

import (
	"context"
	"sync/atomic"

	"github.com/ipfs/boxo/blockstore"
	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/routing"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/store"
)

// Blocks connects an IPFS node with the databases in a datastore: the node's
// block store serves their blocks, and its bitswap requests blocks from peers
// that the daemon knows. It is created before the node's bitswap, which is
// created before the [Daemon]. Without a running daemon, a Blocks knows no
// peers.
type Blocks struct {
	store  *store.Store
	daemon atomic.Pointer[Daemon] // nil if none is running
}

// NewBlocks returns the Blocks of a datastore. A datastore has at most one
// Blocks, and a Blocks at most one Daemon, whose Close also closes the Blocks.
// NewBlocks reads nothing from the datastore.
func NewBlocks(ds datastore.Batching) *Blocks {
	return &Blocks{store: store.New(ds, DatabasesNamespace)}
}

// Overlay returns base with the blocks of databases; see [orbit.Overlay].
func (b *Blocks) Overlay(base blockstore.Blockstore) blockstore.Blockstore {
	return orbit.Overlay(base, b.store)
}

// Discovery returns a content discovery that finds the peers that have the
// database of a block open, then the companions that have its piece, then those
// that base finds. No routing system knows the former, and bitswap does not
// send its requests to every connected peer.
func (b *Blocks) Discovery(base routing.ContentDiscovery) routing.ContentDiscovery {
	return contentDiscovery{base, b}
}

func (b *Blocks) connect(d *Daemon) { b.daemon.Store(d) }

func (b *Blocks) disconnect() error {
	b.daemon.Store(nil)
	return nil
}

// providers returns the peers that the running daemon knows to have a block.
func (b *Blocks) providers(c cid.Cid) []peer.ID {
	if d := b.daemon.Load(); d != nil {
		return d.providers(c)
	}
	return nil
}

type contentDiscovery struct {
	base   routing.ContentDiscovery
	blocks *Blocks
}

// FindProvidersAsync implements [routing.ContentDiscovery].
func (d contentDiscovery) FindProvidersAsync(ctx context.Context, c cid.Cid, n int) <-chan peer.AddrInfo {
	known := d.blocks.providers(c)
	if len(known) == 0 {
		return d.base.FindProvidersAsync(ctx, c, n)
	}
	found := make(chan peer.AddrInfo)
	go func() {
		defer close(found)
		for _, id := range known {
			select {
			case found <- peer.AddrInfo{ID: id}:
			case <-ctx.Done():
				return
			}
		}
		for info := range d.base.FindProvidersAsync(ctx, c, n) {
			select {
			case found <- info:
			case <-ctx.Done():
				return
			}
		}
	}()
	return found
}
