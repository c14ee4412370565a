package plugin

import (
	"context"
	"fmt"

	"github.com/ipfs/boxo/blockservice"
	"github.com/ipfs/boxo/blockstore"
	"github.com/ipfs/boxo/exchange/offline"
	"github.com/ipfs/boxo/ipld/merkledag"
	ipfsblocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/ipfs/kubo/core"

	"github.com/newpieceplease/npp/daemon"
	"github.com/newpieceplease/npp/orbit/block"
)

// nodePins are the pins of a node.
type nodePins struct{ node *core.IpfsNode }

var _ daemon.Pins = nodePins{}

// Pinned implements [daemon.Pins]. A pin may name a block by a CID of any
// codec, as block stores use the multihash only.
func (p nodePins) Pinned(ctx context.Context) (map[string]bool, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	n := p.node
	links := merkledag.GetLinksWithDAG(merkledag.NewDAGService(blockservice.New(n.Blockstore, offline.Exchange(n.Blockstore))))
	seen, hashes := cid.NewSet(), make(map[string]bool)
	add := func(c cid.Cid) {
		if hash, ok := block.HashOf(c); ok {
			hashes[hash] = true
		}
	}
	for pin := range n.Pinning.DirectKeys(ctx, false) {
		if pin.Err != nil {
			return nil, pin.Err
		}
		add(pin.Pin.Key) // a direct pin excludes the links of its block
	}
	visit := func(c cid.Cid) bool { add(c); return seen.Visit(c) }
	for pin := range n.Pinning.RecursiveKeys(ctx, false) {
		if pin.Err != nil {
			return nil, pin.Err
		}
		if err := merkledag.Walk(ctx, links, pin.Pin.Key, visit, merkledag.Concurrent(), merkledag.IgnoreMissing()); err != nil {
			return nil, fmt.Errorf("pin %s: %w", pin.Pin.Key, err)
		}
	}
	return hashes, ctx.Err()
}

// Save implements [daemon.Pins]. It writes to the base block store, because the
// block store above it may omit blocks that it finds in the overlay.
func (p nodePins) Save(ctx context.Context, bs []ipfsblocks.Block) error {
	defer p.node.Blockstore.PinLock(ctx).Unlock(ctx)
	if err := p.node.BaseBlocks.PutMany(ctx, bs); err != nil {
		return err
	}
	return p.node.Repo.Datastore().Sync(ctx, blockstore.BlockPrefix)
}
