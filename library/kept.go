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

// keep makes a companion a kept peer.
func (l *Library) keep(ctx context.Context, c *companionState) {
	err := l.recordKept(ctx, c.id)
	if err == nil {
		err = l.keepAt(ctx, c)
	}
	if err != nil && ctx.Err() == nil {
		log.Warnw("companion is not a kept peer", "peer", c.id, "err", err)
	}
}

// keepBefore makes a peer a kept peer before it is recorded as a companion. So the
// addresses of a recorded companion are on disk, even if the daemon is killed just
// after the record was written. A kept peer without a record is pruned.
func (l *Library) keepBefore(ctx context.Context, id peer.ID) {
	err := l.recordKept(ctx, id)
	if err == nil {
		err = l.cfg.Swarm.Keep(ctx, peer.AddrInfo{ID: id, Addrs: l.knownAddrs(id)})
	}
	if err != nil && ctx.Err() == nil {
		log.Warnw("peer to be a companion is not a kept peer", "peer", id, "err", err)
	}
}

// recordKept records that a peer is kept as a companion, so that unkeep undoes it,
// unless it was a kept peer before.
func (l *Library) recordKept(ctx context.Context, id peer.ID) error {
	recorded, err := l.cfg.Store.Has(ctx, keptKey(id))
	if err != nil || recorded || l.isKept(id) {
		return err
	}
	return l.cfg.Store.Put(ctx, keptKey(id), []byte("1"))
}

// knownAddrs returns the addresses of a peer in the peerstore, which include those
// from identify if the peer opened the connection.
func (l *Library) knownAddrs(id peer.ID) []ma.Multiaddr {
	addrs := l.cfg.Host.Peerstore().Addrs(id)
	slices.SortFunc(addrs, func(a, b ma.Multiaddr) int { return a.Compare(b) })
	return addrs
}

// keepAt makes a companion a kept peer at its known addresses.
func (l *Library) keepAt(ctx context.Context, c *companionState) error {
	addrs := l.knownAddrs(c.id)
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

// unkeep undoes keep, unless another record has the same companion.
func (l *Library) unkeep(ctx context.Context, id peer.ID) {
	if l.companionOf(id) != nil {
		return
	}
	if recorded, err := l.cfg.Store.Has(ctx, keptKey(id)); err != nil || !recorded {
		return
	}
	if err := l.cfg.Swarm.Forget(ctx, id); err != nil && ctx.Err() == nil {
		log.Debugw("former companion is still a kept peer", "peer", id, "err", err)
	}
	if err := l.cfg.Store.Delete(ctx, keptKey(id)); err != nil && ctx.Err() == nil {
		log.Warnw("former companion is still recorded as a kept peer", "peer", id, "err", err)
	}
}

// pruneKept undoes keep for peers that have no record any more.
func (l *Library) pruneKept(records map[string]record) {
	followed := make(map[string]bool)
	for _, r := range records {
		followed[r.NodeID] = true
	}
	var former []peer.ID
	for e, err := range l.cfg.Store.Scan(l.ctx, keptPrefix) {
		if err != nil {
			return
		}
		name := strings.TrimPrefix(e.Key, keptPrefix+"/")
		if id, err := peer.Decode(name); err == nil && !followed[name] {
			former = append(former, id)
		}
	}
	for _, id := range former {
		l.unkeep(l.ctx, id)
	}
}

// MarkPeerManual records that a person asked for a kept peer: it stays one when
// it is not a companion any more.
func (l *Library) MarkPeerManual(ctx context.Context, id peer.ID) error {
	return l.cfg.Store.Delete(ctx, keptKey(id))
}
