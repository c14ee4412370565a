package plugin

import (
	"github.com/ipfs/kubo/core"
	discovery "github.com/libp2p/go-libp2p/p2p/discovery/routing"

	"github.com/newpieceplease/npp/daemon"
	"github.com/newpieceplease/npp/router"
)

// daemonConfig returns the configuration of a daemon on a node.
func daemonConfig(n *core.IpfsNode, s daemon.Settings, r *router.Router, b *daemon.Blocks) (daemon.Config, error) {
	cfg, err := n.Repo.Config()
	if err != nil {
		return daemon.Config{}, err
	}
	if kind := datastoreType(cfg.Datastore.Spec, daemon.MessagesNamespace); splitsBatches(kind) {
		log.Errorf("the repo's datastore (%s) may write parts of a batch: if the daemon is killed, the last writes can be lost or incomplete; use a repo with the default datastore, or with pebbleds", kind)
	}
	if pubsubOff(cfg) {
		log.Warn("Pubsub.Enabled is false: messages from peers without npp, their databases, and topics are switched off")
		r = nil
	}
	c := daemon.Config{
		Settings:   s,
		Host:       n.PeerHost,
		Routing:    n.Routing,
		Router:     r,
		Peers:      cfg.Peering.Peers,
		Datastore:  n.Repo.Datastore(),
		Directory:  datastoreDir(cfg.Datastore.Spec, daemon.DatabasesNamespace, n.Repo.Path()),
		Keystore:   n.Repo.Keystore(),
		Blocks:     b,
		Blockstore: n.Blockstore,
		Exchange:   n.Exchange,
		Files:      nodeFiles{n},
		Pins:       nodePins{n},
		Advice: func() ([]string, error) {
			cfg, err := n.Repo.Config()
			if err != nil {
				return nil, err
			}
			return advice(cfg)
		},
	}
	if n.Peering != nil {
		c.Peering = n.Peering
	}
	if n.Routing != nil {
		// Kubo's discovery service for pubsub remembers each topic for ever.
		c.Discovery = discovery.NewRoutingDiscovery(n.Routing)
	}
	return c, nil
}
