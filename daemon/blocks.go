package daemon

import (
	"context"
	"sync/atomic"

	"github.com/ipfs/boxo/blockstore"
	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/routing"

	"github.com/newpieceplease/npp/orbit/blocks"
	"github.com/newpieceplease/npp/store"
)

// Blocks connects an IPFS node with the databases in a datastore: the node's
// block store serves their blocks, and its bitswap asks peers that the running
// daemon knows. A node's bitswap needs both before a [Daemon] can be started.
// A Blocks also works where no daemon runs; then it knows no peers.
type Blocks struct {
	store  *store.Store
	daemon atomic.Pointer[Daemon] // nil if none is running
}

// NewBlocks returns the Blocks of a datastore. There must be one only of a
// datastore, and one Daemon only of a Blocks. A Blocks reads nothing until a
// block is requested, and needs no Close of its own.
func NewBlocks(ds datastore.Batching) *Blocks {
	return &Blocks{store: store.New(ds, DatabasesNamespace)}
}

// Overlay returns base with the blocks of databases; see [blocks.Under].
func (b *Blocks) Overlay(base blockstore.Blockstore) blockstore.Blockstore {
	return blocks.Under(base, b.store)
}

// Discovery returns base, preceded by the peers that have a database open to
// which a block belongs, and by the companions that have its piece. No routing
// system knows these, and bitswap does not ask every connected peer.
func (b *Blocks) Discovery(base routing.ContentDiscovery) routing.ContentDiscovery {
	return discovery{base, b}
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

type discovery struct {
	base   routing.ContentDiscovery
	blocks *Blocks
}

// FindProvidersAsync implements [routing.ContentDiscovery].
func (d discovery) FindProvidersAsync(ctx context.Context, c cid.Cid, n int) <-chan peer.AddrInfo {
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
