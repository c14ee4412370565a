package library

import (
	"context"
	"fmt"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/library/piece"
)

// connectTimeout bounds a connection attempt to a companion that has a file.
const connectTimeout = 20 * time.Second

// Fetch returns the file of a piece. Reading it fetches its blocks, from
// companions that have the piece and from other providers. Reading fails when
// ctx is done.
func (l *Library) Fetch(ctx context.Context, p piece.Piece) (File, error) {
	c, err := piece.Decode(p.Hash)
	if err != nil {
		return nil, fmt.Errorf("%w: the hash %.80q of the piece is not a CID", ErrInvalid, p.Hash)
	}
	l.connectProviders(ctx, c)
	return l.cfg.Files.Open(ctx, c)
}

// connectProviders starts connecting to the companions that have a piece.
func (l *Library) connectProviders(ctx context.Context, c cid.Cid) {
	for _, id := range l.Providers(c) {
		if !l.Connected(id) {
			go l.connect(ctx, id)
		}
	}
}

func (l *Library) connect(ctx context.Context, id peer.ID) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()
	if _, err := l.cfg.Swarm.Connect(ctx, peer.AddrInfo{ID: id}); err != nil {
		log.Debugw("companion that has a file", "peer", id, "err", err)
	}
}
