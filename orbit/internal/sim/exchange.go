package sim

import (
	"context"
	"time"

	"github.com/ipfs/boxo/exchange"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/orbit/block"
)

// swap is bitswap: it sends its want list to all connected peers, which
// remember it and send the blocks when they have them. w.mu guards it.
type swap struct {
	h      *host
	lookUp func(cid.Cid) (blocks.Block, bool) // finds the blocks to serve; nil for none
	wants  map[cid.Cid]map[*want]bool
	asked  map[peer.ID]map[cid.Cid]bool // the want lists of connected peers
}

// want is a request for blocks.
type want struct {
	rest map[cid.Cid]bool
	out  chan blocks.Block // has room for all of them; closed when the request ends
}

func newSwap(h *host) *swap {
	return &swap{h: h, wants: make(map[cid.Cid]map[*want]bool), asked: make(map[peer.ID]map[cid.Cid]bool)}
}

// NewSession implements [replicate.Exchange].
func (x *swap) NewSession(context.Context) exchange.Fetcher { return x }

// GetBlock implements [exchange.Fetcher].
func (x *swap) GetBlock(ctx context.Context, c cid.Cid) (blocks.Block, error) {
	found, _ := x.GetBlocks(ctx, []cid.Cid{c})
	if b, ok := <-found; ok {
		return b, nil
	}
	return nil, context.Cause(ctx)
}

// GetBlocks implements [exchange.Fetcher].
func (x *swap) GetBlocks(ctx context.Context, cids []cid.Cid) (<-chan blocks.Block, error) {
	n := &want{make(map[cid.Cid]bool), make(chan blocks.Block, len(cids))}
	x.h.w.mu.Lock()
	defer x.h.w.mu.Unlock()
	for _, c := range cids {
		n.rest[c] = true
		if x.wants[c] == nil {
			x.wants[c] = make(map[*want]bool)
		}
		x.wants[c][n] = true
	}
	x.h.changed()
	context.AfterFunc(ctx, func() {
		x.h.w.mu.Lock()
		defer x.h.w.mu.Unlock()
		for c := range n.rest {
			x.drop(n, c)
		}
	})
	return n.out, nil
}

// drop removes a block from a request. The caller holds w.mu.
func (x *swap) drop(n *want, c cid.Cid) {
	delete(n.rest, c)
	if len(n.rest) == 0 {
		close(n.out)
	}
	delete(x.wants[c], n)
	if len(x.wants[c]) == 0 {
		delete(x.wants, c)
		x.h.changed()
	}
}

// forget forgets the want list of a peer. The caller holds w.mu.
func (x *swap) forget(p peer.ID) { delete(x.asked, p) }

// note handles a change of the want list of a peer.
func (x *swap) note(p peer.ID, c cid.Cid, on bool) {
	x.h.w.mu.Lock()
	if x.asked[p] == nil {
		x.asked[p] = make(map[cid.Cid]bool)
	}
	x.asked[p][c] = on
	lookUp := x.lookUp
	x.h.w.mu.Unlock()
	if on && lookUp != nil {
		if b, ok := lookUp(c); ok {
			x.NotifyNewBlocks(x.h.ctx, b)
		}
	}
}

// NotifyNewBlocks sends new blocks to the peers that want them.
func (x *swap) NotifyNewBlocks(_ context.Context, bs ...blocks.Block) error {
	x.h.w.mu.Lock()
	defer x.h.w.mu.Unlock()
	for _, b := range bs {
		for p, asked := range x.asked {
			if c := x.h.conns[p]; c != nil && asked[b.Cid()] {
				delete(asked, b.Cid())
				to := c.other(x.h).swap
				c.send(x.h, c.key(x.h, "block").bytes(b.RawData()), "block", time.Time{}, func() { to.receive(b) })
			}
		}
	}
	return nil
}

// receive handles a block that a peer sent, and ignores it if its CID is wrong.
func (x *swap) receive(b blocks.Block) {
	if hash, ok := block.HashOf(b.Cid()); !ok || hash != block.Hash(b.RawData()) {
		return
	}
	x.h.w.mu.Lock()
	defer x.h.w.mu.Unlock()
	for n := range x.wants[b.Cid()] {
		n.out <- b
		x.drop(n, b.Cid())
	}
}

// serve sets the function that finds the blocks to serve.
func (x *swap) serve(lookUp func(cid.Cid) (blocks.Block, bool)) {
	x.h.w.mu.Lock()
	defer x.h.w.mu.Unlock()
	x.lookUp = lookUp
}
