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
	"github.com/ipfs/kubo/core/node"
	"github.com/ipfs/kubo/repo"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/routing"
	"go.uber.org/fx"

	"github.com/newpieceplease/npp/library"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/replicate"
	"github.com/newpieceplease/npp/router"
	"github.com/newpieceplease/npp/store"
)

// Keys of the OrbitDB identity in the repo's keystore.
const (
	rootKey    = "npp-orbitdb-root"
	signingKey = "npp-orbitdb-signing"
)

type blocksIn struct {
	fx.In

	Base node.BaseBlocks
	Repo repo.Repo `optional:"true"`
}

// decorateBlocks lays the blocks of the databases under the node's block store,
// in every process that has a node: what a database holds is there for `ipfs
// block get` and `ipfs dag export` without a daemon, too.
func (p *Plugin) decorateBlocks(in blocksIn) node.BaseBlocks {
	if in.Repo == nil {
		return in.Base
	}
	s := store.New(in.Repo.Datastore(), orbitNamespace)
	p.mu.Lock()
	p.orbitStore = s
	p.mu.Unlock()
	return orbit.Overlay(in.Base, s)
}

// discoveryIn is what finds peers that have blocks.
type discoveryIn struct {
	fx.In

	Base routing.ContentDiscovery `optional:"true"`
}

// decorateDiscovery has bitswap ask the peers that have a database open for its
// blocks, and companions for their pieces: no routing system knows of those, and bitswap does not ask every peer
// that it is connected to.
func (p *Plugin) decorateDiscovery(in discoveryIn) routing.ContentDiscovery {
	if in.Base == nil {
		return nil
	}
	return knownProviders{in.Base, p}
}

type knownProviders struct {
	routing.ContentDiscovery
	plugin *Plugin
}

func (d knownProviders) FindProvidersAsync(ctx context.Context, c cid.Cid, n int) <-chan peer.AddrInfo {
	var known []peer.ID
	if daemon, err := d.plugin.current(); err == nil {
		known = daemon.providers(c)
	}
	if len(known) == 0 {
		return d.ContentDiscovery.FindProvidersAsync(ctx, c, n)
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
		for info := range d.ContentDiscovery.FindProvidersAsync(ctx, c, n) {
			select {
			case found <- info:
			case <-ctx.Done():
				return
			}
		}
	}()
	return found
}

// providers returns the peers that are likely to have a block: those that have the
// database open that it is of, and companions that have the piece.
func (d *Daemon) providers(c cid.Cid) (known []peer.ID) {
	if d.replicator != nil {
		known = d.replicator.Providers(c)
	}
	if d.library != nil {
		known = append(known, d.library.Providers(c)...)
	}
	return known
}

// openDatabases opens the daemon's own databases. Only a store that does not
// work at all is an error of the daemon's.
func (d *Daemon) openDatabases(ctx context.Context, n *core.IpfsNode, r *router.Router, s *store.Store, q orbit.Quotas, open func(namespace string) *store.Store) {
	c := orbit.Config{
		Store:      s,
		Keystore:   n.Repo.Keystore(),
		RootKey:    rootKey,
		SigningKey: signingKey,
		Source:     n.Blockstore,
		Quotas:     q,
		Disk:       d.disk,
	}
	if n.Exchange != nil {
		c.Announce = n.Exchange.NotifyNewBlocks
	}
	if d.orbit, d.orbitErr = orbit.New(ctx, c); d.orbitErr != nil {
		log.Errorw("databases cannot be opened", "err", d.orbitErr)
		return
	}
	rc := replicate.Config{Reads: speaksNPP(n.PeerHost), Orbit: d.orbit, Store: open(replicateNamespace), Host: n.PeerHost, Disk: d.disk}
	if r != nil {
		rc.Router = r
	}
	if blocks, ok := n.Exchange.(replicate.Exchange); ok {
		rc.Exchange = blocks
	}
	var err error
	if d.replicator, err = replicate.New(ctx, rc); err != nil {
		log.Errorw("databases are not replicated", "err", err)
		d.replicatorErr = err
	}
	lc := library.Config{
		Orbit:    d.orbit,
		Host:     n.PeerHost,
		Files:    nodeFiles{n, d.disk},
		Disk:     d.disk,
		Store:    open(libraryNamespace),
		Swarm:    d.Swarm,
		Messages: d.Messages,
		Keep:     func() func(context.Context, []block.Block) error { return d.Pinned().Keep },
	}
	if d.replicator != nil {
		lc.Replicator = d.replicator
	}
	if d.library, err = library.New(ctx, lc); err != nil {
		log.Errorw("there is no library", "err", err)
		d.libraryErr = err
	}
}

// Orbit returns the daemon's databases, or why there are none.
func (d *Daemon) Orbit() (*orbit.Orbit, error) {
	if d.orbitErr != nil {
		return nil, fmt.Errorf("databases: %w", d.orbitErr)
	}
	return d.orbit, nil
}

// Replicator returns what replicates the daemon's databases, or why nothing does.
func (d *Daemon) Replicator() (*replicate.Replicator, error) {
	if _, err := d.Orbit(); err != nil {
		return nil, err
	}
	return d.replicator, d.replicatorErr
}

// Pinned returns what keeps the pinned blocks of a database that is dropped.
func (d *Daemon) Pinned() *Pinned { return &Pinned{node: d.node} }

// Pinned keeps blocks that are pinned when the first of them is offered, where
// garbage collection finds them pinned: in the node's own block store.
type Pinned struct {
	node   *core.IpfsNode
	hashes map[string]bool // of all blocks that are pinned, nil before the first is offered
	kept   int
}

// Kept returns how many blocks were kept.
func (p *Pinned) Kept() int { return p.kept }

// Keep keeps those of some blocks that are pinned; see [orbit.Orbit.Drop].
func (p *Pinned) Keep(ctx context.Context, bs []block.Block) error {
	if p.hashes == nil {
		hashes, err := pinnedHashes(ctx, p.node)
		if err != nil {
			return fmt.Errorf("look for pins: %w", err)
		}
		p.hashes = hashes
	}
	var keep []ipfsblocks.Block
	for _, b := range bs {
		if !p.hashes[b.Hash] {
			continue
		}
		own, err := b.IPFS()
		if err != nil {
			return err
		}
		keep = append(keep, own)
	}
	if len(keep) == 0 {
		return nil
	}
	defer p.node.Blockstore.PinLock(ctx).Unlock(ctx)
	// Not the block store above it, which may leave out what it has.
	err := p.node.BaseBlocks.PutMany(ctx, keep)
	if err == nil {
		err = p.node.Repo.Datastore().Sync(ctx, blockstore.BlockPrefix)
	}
	if err != nil {
		return fmt.Errorf("keep pinned blocks: %w", err)
	}
	p.kept += len(keep)
	return nil
}

// pinnedHashes returns the hashes of all that is pinned, by whatever CID: block
// stores go by the multihash. What lies behind a block that is not here is not
// known.
func pinnedHashes(ctx context.Context, n *core.IpfsNode) (map[string]bool, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	links := merkledag.GetLinksWithDAG(merkledag.NewDAGService(blockservice.New(n.Blockstore, offline.Exchange(n.Blockstore))))
	seen, hashes := cid.NewSet(), make(map[string]bool)
	visit := func(c cid.Cid) bool {
		if hash, ok := block.HashOf(c); ok {
			hashes[hash] = true
		}
		return seen.Visit(c)
	}
	for p := range n.Pinning.DirectKeys(ctx, false) {
		if p.Err != nil {
			return nil, p.Err
		}
		if hash, ok := block.HashOf(p.Pin.Key); ok { // what it links to is not pinned
			hashes[hash] = true
		}
	}
	for p := range n.Pinning.RecursiveKeys(ctx, false) {
		if p.Err != nil {
			return nil, p.Err
		}
		if err := merkledag.Walk(ctx, links, p.Pin.Key, visit, merkledag.Concurrent(), merkledag.IgnoreMissing()); err != nil {
			return nil, fmt.Errorf("pin %s: %w", p.Pin.Key, err)
		}
	}
	return hashes, ctx.Err()
}

// Library returns the daemon's own stores, or why there are none.
func (d *Daemon) Library() (*library.Library, error) {
	if _, err := d.Orbit(); err != nil {
		return nil, err
	}
	return d.library, d.libraryErr
}
