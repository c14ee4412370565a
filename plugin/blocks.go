package plugin

import (
	"github.com/ipfs/kubo/core/node"
	"github.com/ipfs/kubo/repo"
	"github.com/libp2p/go-libp2p/core/routing"
	"go.uber.org/fx"

	"github.com/newpieceplease/npp/daemon"
)

type repoIn struct {
	fx.In

	Repo repo.Repo `optional:"true"`
}

// provideBlocks provides the blocks of the databases in the node's repo, or nil
// for a node without a repo.
func (p *Plugin) provideBlocks(in repoIn) *daemon.Blocks {
	if in.Repo == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.blocks = daemon.NewBlocks(in.Repo.Datastore())
	return p.blocks
}

// decorateBlocks adds the blocks of databases to the node's block store, in
// every process that has a node: `ipfs block get` and `ipfs dag export` find
// them even if no daemon runs.
func decorateBlocks(base node.BaseBlocks, b *daemon.Blocks) node.BaseBlocks {
	if b == nil {
		return base
	}
	return b.Overlay(base)
}

type discoveryIn struct {
	fx.In

	Base   routing.ContentDiscovery `optional:"true"`
	Blocks *daemon.Blocks
}

// decorateDiscovery makes bitswap ask the peers that the daemon knows.
func decorateDiscovery(in discoveryIn) routing.ContentDiscovery {
	if in.Base == nil || in.Blocks == nil {
		return in.Base
	}
	return in.Blocks.Discovery(in.Base)
}
