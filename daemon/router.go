package daemon

import (
	"context"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/message"
	"github.com/newpieceplease/npp/router"
)

// NewRouter starts the router of a daemon on a host, as [router.New] does. It
// sets the option SupportsBursts, as peers that run npp do.
func NewRouter(ctx context.Context, h host.Host, o router.Options) (*router.Router, error) {
	o.SupportsBursts = speaksNPP(h)
	return router.New(ctx, h, o)
}

// speaksNPP returns a function that reports whether a peer runs npp.
func speaksNPP(h host.Host) func(peer.ID) bool {
	return func(id peer.ID) bool {
		spoken, err := h.Peerstore().SupportsProtocols(id, message.Protocol)
		return err == nil && len(spoken) > 0
	}
}
