package library

import (
	"context"
	"fmt"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/library/piece"
)

// reachTimeout is how long it is tried to connect to a companion that has a file.
const reachTimeout = 20 * time.Second

// Fetch returns the file of a piece, whoever has it. It is fetched as it is read,
// from companions that have the piece and from all that the node knows otherwise;
// reading fails when ctx is done.
func (l *Library) Fetch(ctx context.Context, p piece.Piece) (File, error) {
	c, err := piece.Decode(p.Hash)
	if err != nil {
		return nil, fmt.Errorf("%w: the hash %.80q of the piece is no CID", ErrInvalid, p.Hash)
	}
	l.reachOwners(ctx, c)
	return l.cfg.Files.Open(ctx, c)
}

// reachOwners begins to connect to the companions that have a piece.
func (l *Library) reachOwners(ctx context.Context, c cid.Cid) {
	for _, id := range l.Providers(c) {
		if !l.Connected(id) {
			go l.reach(ctx, id)
		}
	}
}

func (l *Library) reach(ctx context.Context, id peer.ID) {
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()
	if _, err := l.cfg.Swarm.Connect(ctx, peer.AddrInfo{ID: id}); err != nil {
		log.Debugw("companion that has a file", "peer", id, "err", err)
	}
}
