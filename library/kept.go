package library

import (
	"context"
	"slices"
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

const keptPrefix = "kept"

func keptKey(id peer.ID) string { return keptPrefix + "/" + id.String() }

// keep keeps the connection to a companion, and notes it where nobody did before.
func (l *Library) keep(ctx context.Context, c *companion) {
	id := c.id
	noted, err := l.cfg.Store.Has(ctx, keptKey(id))
	if err == nil && !noted && !l.isKept(id) {
		err = l.save(ctx, keptKey(id), []byte("1"))
	}
	if err == nil {
		err = l.keepAt(ctx, c)
	}
	if err != nil && ctx.Err() == nil {
		log.Warnw("connection to a companion is not kept", "peer", id, "err", err)
	}
}

// keepAt keeps the connection to a companion at the addresses that it says it has,
// also where the connection is one that the companion opened.
func (l *Library) keepAt(ctx context.Context, c *companion) error {
	addrs := l.cfg.Host.Peerstore().Addrs(c.id)
	slices.SortFunc(addrs, func(a, b ma.Multiaddr) int { return a.Compare(b) })
	c.mu.Lock()
	same := c.kept && slices.EqualFunc(c.addrs, addrs, ma.Multiaddr.Equal)
	c.mu.Unlock()
	if same {
		return nil
	}
	if err := l.cfg.Swarm.Keep(ctx, peer.AddrInfo{ID: c.id, Addrs: addrs}); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept, c.addrs = true, addrs
	return nil
}

func (l *Library) isKept(id peer.ID) bool {
	for _, k := range l.cfg.Swarm.Kept() {
		if k.ID == id {
			return true
		}
	}
	return false
}

// unkeep ends what keep did, unless the peer is a companion by another record.
func (l *Library) unkeep(ctx context.Context, id peer.ID) {
	if l.companionOf(id) != nil {
		return
	}
	if noted, err := l.cfg.Store.Has(ctx, keptKey(id)); err != nil || !noted {
		return
	}
	if err := l.cfg.Swarm.Forget(ctx, id); err != nil && ctx.Err() == nil {
		log.Debugw("connection to a former companion", "peer", id, "err", err)
	}
	if err := l.erase(ctx, keptKey(id)); err != nil && ctx.Err() == nil {
		log.Warnw("connection to a former companion", "peer", id, "err", err)
	}
}

// tidyKept keeps the connections no more that were kept for companions that are
// gone.
func (l *Library) tidyKept(records map[string]record) {
	followed := make(map[string]bool)
	for _, r := range records {
		followed[r.NodeID] = true
	}
	var gone []peer.ID
	for e, err := range l.cfg.Store.Scan(l.ctx, keptPrefix) {
		if err != nil {
			return
		}
		name := strings.TrimPrefix(e.Key, keptPrefix+"/")
		if id, err := peer.Decode(name); err == nil && !followed[name] {
			gone = append(gone, id)
		}
	}
	for _, id := range gone {
		l.unkeep(l.ctx, id)
	}
}

// ClaimPeer says that somebody keeps the connection to a peer by hand: it is kept
// when the peer is a companion no more.
func (l *Library) ClaimPeer(ctx context.Context, id peer.ID) error {
	return l.erase(ctx, keptKey(id))
}
