package replicate

import (
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/newpieceplease/npp/orbit/internal/heads"
	"github.com/newpieceplease/npp/orbit/internal/inventory"
	"github.com/newpieceplease/npp/orbit/internal/reconcile"
)

// Protocols returns the libp2p protocols that a Replicator handles. The heads
// exchange of OrbitDB has a protocol for each database: the prefix returned
// here, followed by the database's address. The host advertises the prefix
// alone.
func Protocols() []protocol.ID {
	return []protocol.ID{inventory.Protocol, reconcile.Protocol, reconcile.Earlier, heads.Protocol("")}
}
