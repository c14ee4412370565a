package commands

import (
	"context"
	"errors"
	"fmt"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/library"
	"github.com/newpieceplease/npp/plugin"
	"github.com/newpieceplease/npp/swarm"
)

// target is the peer that an argument names: by its ID, an address or a name.
func target(ctx context.Context, d *plugin.Daemon, arg string) (peer.AddrInfo, error) {
	info, err := swarm.ParseTarget(arg)
	if err == nil || library.CheckUsername(arg) != nil {
		return info, err
	}
	lib, libErr := d.Library()
	if libErr != nil {
		return info, err // names are not known
	}
	id, nameErr := lib.PeerNamed(ctx, arg)
	switch {
	case nameErr == nil:
		return peer.AddrInfo{ID: id}, nil
	case errors.Is(nameErr, library.ErrUnknownName):
		return info, fmt.Errorf("%w; and no companion or connected peer has that name; hint: ipfs npp companions ls --nearby shows names", err)
	case errors.Is(nameErr, library.ErrChangedName):
		return info, fmt.Errorf("%w; hint: use the peer ID, or ipfs npp companions add <peer ID> to take the new name", nameErr)
	}
	return info, fmt.Errorf("%w; hint: use the peer ID", nameErr)
}

// nameOf is the name of a peer for people, or "" where it has none.
func nameOf(d *plugin.Daemon, id peer.ID) string {
	lib, err := d.Library()
	if err != nil {
		return ""
	}
	return lib.NameOf(id)
}
