package plugin

import (
	"context"
	"fmt"

	"github.com/ipfs/kubo/core"
	"github.com/ipfs/kubo/core/node"
	"github.com/ipfs/kubo/repo"
	"go.uber.org/fx"

	"github.com/newpieceplease/npp/library"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/blocks"
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
	return blocks.Under(in.Base, s)
}

// openDatabases opens the daemon's own databases. Only a store that does not
// work at all is an error of the daemon's.
func (d *Daemon) openDatabases(ctx context.Context, n *core.IpfsNode, s *store.Store) {
	c := orbit.Config{
		Store:      s,
		Keystore:   n.Repo.Keystore(),
		RootKey:    rootKey,
		SigningKey: signingKey,
		Source:     n.Blockstore,
	}
	if n.Exchange != nil {
		c.Announce = n.Exchange.NotifyNewBlocks
	}
	if d.orbit, d.orbitErr = orbit.New(ctx, c); d.orbitErr != nil {
		log.Errorw("databases cannot be opened", "err", d.orbitErr)
		return
	}
	d.library = library.Open(ctx, d.orbit, n.Identity)
}

// Orbit returns the daemon's databases, or why there are none.
func (d *Daemon) Orbit() (*orbit.Orbit, error) {
	if d.orbitErr != nil {
		return nil, fmt.Errorf("databases: %w", d.orbitErr)
	}
	return d.orbit, nil
}

// Library returns the daemon's own stores, or why there are none.
func (d *Daemon) Library() (*library.Library, error) {
	if _, err := d.Orbit(); err != nil {
		return nil, err
	}
	return d.library, nil
}
