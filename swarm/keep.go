package swarm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/newpieceplease/npp/internal/wait"
	"github.com/newpieceplease/npp/store"
)

const (
	// maxKept is how many peers can be kept.
	maxKept = 1000

	// maxKeptAddrs is how many addresses of a kept peer are stored.
	maxKeptAddrs = 16

	// maxKeeperDials is how many kept peers are dialled at a time.
	maxKeeperDials = 16

	// The delay between two tries doubles from firstPause to lastPause; the
	// actual delay is random, between half of it and all of it. It starts again
	// after a connection that lasted for heldWell. A shorter connection counts
	// as a failure, otherwise a peer that hangs up at once would be dialled
	// endlessly.
	firstPause = 2 * time.Second
	lastPause  = 5 * time.Minute
	heldWell   = time.Minute

	// keepTag is the connection manager's tag for kept peers.
	keepTag = "npp/keep"

	// keepPrefix is the prefix of the kept peers in the store, by ID.
	keepPrefix = "keep"
)

var (
	// ErrNotKept means that npp does not keep the peer.
	ErrNotKept = errors.New("the peer is not kept")

	// ErrPinned means that the operator's configuration keeps the peer.
	ErrPinned = errors.New("the peer is kept by Peering.Peers in the config")

	// ErrTooManyKept means that no further peer can be kept.
	ErrTooManyKept = fmt.Errorf("%d peers are kept already, which is the limit", maxKept)
)

// Kept says on whose behalf a peer is kept. It is empty for other peers.
type Kept string

// The values of Kept. KeptByConfig applies if both do.
const (
	KeptByNPP    Kept = "npp"
	KeptByConfig Kept = "config"
)

// KeptPeer is a peer to which the host reconnects.
type KeptPeer struct {
	ID        peer.ID
	Addrs     []ma.Multiaddr // of the record or the configuration
	By        Kept
	Connected bool
}

// Keep stores a peer and keeps it connected in the background, by all the ways
// of [Swarm.Connect] and over restarts, until [Swarm.Forget]. The record is
// durable when Keep returns. Addresses of a peer that is already kept are added
// to its record. The error wraps [ErrSelf], [ErrClosed], [ErrTooManyKept] or an
// error of the store.
func (s *Swarm) Keep(ctx context.Context, info peer.AddrInfo) error {
	s.keeping.Lock()
	defer s.keeping.Unlock()
	if err := s.check(info.ID); err != nil {
		return fmt.Errorf("keep %s: %w", info.ID, err)
	}
	k, others := s.keeper(info.ID)
	if k != nil {
		info.Addrs = mergeAddrs(info.Addrs, k.addrs)
	} else {
		info.Addrs = mergeAddrs(info.Addrs, nil)
		if others >= maxKept {
			return fmt.Errorf("keep %s: %w", info.ID, ErrTooManyKept)
		}
	}
	if err := s.save(ctx, info); err != nil {
		return fmt.Errorf("keep %s: %w", info.ID, err)
	}
	if k == nil {
		s.startKeeper(info, s.listPeering())
		return nil
	}
	s.setAddrs(k, info.Addrs)
	k.again.Set()
	return nil
}

// Forget stops keeping a peer and leaves its connection open. The error wraps
// [ErrNotKept], or [ErrPinned] if the configuration keeps the peer, or an error
// of the store. In the case of ErrPinned, npp's own record is deleted and the
// peer stays kept.
func (s *Swarm) Forget(ctx context.Context, id peer.ID) error {
	s.keeping.Lock()
	defer s.keeping.Unlock()
	if s.ctx.Err() != nil {
		return fmt.Errorf("forget %s: %w", id, ErrClosed)
	}
	k, _ := s.keeper(id)
	if k != nil {
		err := s.cfg.Store.Update(ctx, func(tx *store.Tx) error { return tx.Delete(keepKey(id)) })
		if err != nil {
			return fmt.Errorf("forget %s: %w", id, err)
		}
		s.mu.Lock()
		delete(s.kept, id)
		s.mu.Unlock()
		s.stopKeeper(k, s.listPeering())
	}
	if _, ok := s.pinned[id]; ok {
		return fmt.Errorf("forget %s: %w", id, ErrPinned)
	}
	if k == nil {
		return fmt.Errorf("forget %s: %w", id, ErrNotKept)
	}
	return nil
}

// Kept returns the kept peers, connected or not, sorted by ID.
func (s *Swarm) Kept() []KeptPeer {
	s.mu.Lock()
	var kept []KeptPeer
	for id, info := range s.pinned {
		kept = append(kept, KeptPeer{ID: id, Addrs: info.Addrs, By: KeptByConfig})
	}
	for id, k := range s.kept {
		if _, ok := s.pinned[id]; !ok {
			kept = append(kept, KeptPeer{ID: id, Addrs: k.addrs, By: KeptByNPP})
		}
	}
	s.mu.Unlock()
	for i := range kept {
		kept[i].Connected = s.isConnected(kept[i].ID)
	}
	slices.SortFunc(kept, func(a, b KeptPeer) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return kept
}

func (s *Swarm) keptBy(id peer.ID) Kept {
	if _, ok := s.pinned[id]; ok {
		return KeptByConfig
	}
	if k, _ := s.keeper(id); k != nil {
		return KeptByNPP
	}
	return ""
}

// keeper keeps one peer connected.
type keeper struct {
	id      peer.ID
	cancel  context.CancelFunc
	changed wait.Flag // set when the peer may have connected or disconnected
	again   wait.Flag // set when the peer should be dialled at once

	addrs []ma.Multiaddr // replaced as a whole, with both Swarm.keeping and Swarm.mu held

	// The entry that was added to the peering service; guarded by
	// Swarm.keeping.
	peering      bool
	peeringAddrs []ma.Multiaddr
}

// keptAddrs returns the stored and configured addresses of a peer.
func (s *Swarm) keptAddrs(id peer.ID) []ma.Multiaddr {
	s.mu.Lock()
	defer s.mu.Unlock()
	addrs := slices.Clone(s.pinned[id].Addrs)
	if k := s.kept[id]; k != nil {
		addrs = append(addrs, k.addrs...)
	}
	return addrs
}

// keeper returns the keeper of a peer, or nil, and the number of keepers.
func (s *Swarm) keeper(id peer.ID) (*keeper, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kept[id], len(s.kept)
}

// startKeeper starts a keeper. The caller holds s.keeping.
func (s *Swarm) startKeeper(info peer.AddrInfo, listed map[peer.ID][]ma.Multiaddr) {
	ctx, cancel := context.WithCancel(s.ctx)
	k := &keeper{
		id:      info.ID,
		cancel:  cancel,
		changed: wait.NewFlag(),
		again:   wait.NewFlag(),
		addrs:   info.Addrs,
	}
	s.mu.Lock()
	s.kept[k.id] = k
	s.mu.Unlock()
	s.cfg.Host.ConnManager().Protect(k.id, keepTag)
	if _, taken := listed[k.id]; s.cfg.Peering != nil && !taken {
		s.tellPeering(k)
	}
	s.tasks.Go(func() { s.keep(ctx, k) })
}

// stopKeeper undoes startKeeper, except for s.kept.
func (s *Swarm) stopKeeper(k *keeper, listed map[peer.ID][]ma.Multiaddr) {
	k.cancel()
	s.cfg.Host.ConnManager().Unprotect(k.id, keepTag)
	if k.ownsPeering(listed) {
		s.cfg.Peering.RemovePeer(k.id)
	}
}

// setAddrs replaces the addresses of k. The caller holds s.keeping.
func (s *Swarm) setAddrs(k *keeper, addrs []ma.Multiaddr) {
	s.mu.Lock()
	k.addrs = addrs
	s.mu.Unlock()
	if k.ownsPeering(s.listPeering()) {
		s.tellPeering(k)
	}
}

func (s *Swarm) tellPeering(k *keeper) {
	s.cfg.Peering.AddPeer(peer.AddrInfo{ID: k.id, Addrs: k.addrs})
	k.peering, k.peeringAddrs = true, k.addrs
}

// ownsPeering reports whether the entry of the peering service is the one that
// was added here. An entry of the operator is never touched, nor one that the
// operator changed or removed.
func (k *keeper) ownsPeering(listed map[peer.ID][]ma.Multiaddr) bool {
	addrs, ok := listed[k.id]
	return ok && k.peering && slices.EqualFunc(addrs, k.peeringAddrs, ma.Multiaddr.Equal)
}

// listPeering returns the entries of the peering service and of the
// configuration.
func (s *Swarm) listPeering() map[peer.ID][]ma.Multiaddr {
	listed := make(map[peer.ID][]ma.Multiaddr)
	for id, info := range s.pinned {
		listed[id] = info.Addrs
	}
	if s.cfg.Peering != nil {
		for _, info := range s.cfg.Peering.ListPeers() {
			listed[info.ID] = info.Addrs
		}
	}
	return listed
}

// keep reconnects the peer of k after each loss until ctx ends.
func (s *Swarm) keep(ctx context.Context, k *keeper) {
	pauses := wait.Backoff{First: firstPause, Max: lastPause}
	for ctx.Err() == nil {
		if err := s.reconnect(ctx, k); err != nil {
			log.Debugw("kept peer not reached", "peer", k.id, "error", err)
		} else {
			began := time.Now()
			s.remember(ctx, k)
			s.awaitLoss(ctx, k)
			if time.Since(began) >= heldWell {
				pauses.Reset()
			}
		}
		if s.rest(ctx, k, pauses.Next()) {
			pauses.Reset()
		}
	}
}

// awaitLoss waits until the peer of k is disconnected.
func (s *Swarm) awaitLoss(ctx context.Context, k *keeper) {
	for s.isConnected(k.id) {
		select {
		case <-ctx.Done():
			return
		case <-k.changed:
		}
	}
}

// rest waits for a delay or until the peer of k connects. It reports true if
// the peer should be dialled at once.
func (s *Swarm) rest(ctx context.Context, k *keeper, delay time.Duration) bool {
	over := time.NewTimer(delay)
	defer over.Stop()
	for !s.isConnected(k.id) {
		select {
		case <-ctx.Done():
			return false
		case <-over.C:
			return false
		case <-k.again:
			return true
		case <-k.changed:
		}
	}
	return false
}

// reconnect connects the peer of k.
func (s *Swarm) reconnect(ctx context.Context, k *keeper) error {
	select {
	case s.dials <- struct{}{}:
		defer func() { <-s.dials }()
	case <-ctx.Done():
		return ctx.Err()
	}
	s.mu.Lock()
	addrs := k.addrs
	s.mu.Unlock()
	_, err := s.Connect(ctx, peer.AddrInfo{ID: k.id, Addrs: addrs})
	return err
}

// remember adds the address at which the peer of k was reached to its record.
func (s *Swarm) remember(ctx context.Context, k *keeper) {
	conn := s.conn(k.id)
	if conn == nil || conn.Stat().Direction != network.DirOutbound {
		return // the remote address of an inbound connection is not one it listens on
	}
	addr, _ := peer.SplitAddr(conn.RemoteMultiaddr())
	s.keeping.Lock()
	defer s.keeping.Unlock()
	if ctx.Err() != nil || slices.ContainsFunc(k.addrs, addr.Equal) {
		return
	}
	addrs := mergeAddrs([]ma.Multiaddr{addr}, k.addrs)
	if err := s.save(ctx, peer.AddrInfo{ID: k.id, Addrs: addrs}); err != nil {
		log.Warnw("address of a kept peer not remembered", "peer", k.id, "addr", addr, "error", err)
		return
	}
	s.setAddrs(k, addrs)
}

// mergeAddrs returns addrs and then others, without duplicates, up to the
// limit.
func mergeAddrs(addrs, others []ma.Multiaddr) []ma.Multiaddr {
	var merged []ma.Multiaddr
	for _, addr := range slices.Concat(addrs, others) {
		if len(merged) < maxKeptAddrs && len(addr) > 0 && !slices.ContainsFunc(merged, addr.Equal) {
			merged = append(merged, addr)
		}
	}
	return merged
}

// record is the stored form of a kept peer.
type record struct {
	Addrs []string `json:"addrs"`
}

func keepKey(id peer.ID) string {
	return keepPrefix + "/" + id.String()
}

func (s *Swarm) save(ctx context.Context, info peer.AddrInfo) error {
	var r record
	for _, addr := range info.Addrs {
		r.Addrs = append(r.Addrs, addr.String())
	}
	value, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return s.cfg.Store.Update(ctx, func(tx *store.Tx) error { return tx.Put(keepKey(info.ID), value) })
}

// load reads the kept peers. It logs a damaged record, leaves it in the store,
// and does not keep its peer.
func (s *Swarm) load(ctx context.Context) ([]peer.AddrInfo, error) {
	var kept []peer.AddrInfo
	for entry, err := range s.cfg.Store.Scan(ctx, keepPrefix) {
		if err != nil {
			return nil, fmt.Errorf("read the kept peers: %w", err)
		}
		info, err := parseRecord(entry)
		switch {
		case err != nil:
			log.Errorw("record of a kept peer is damaged", "key", entry.Key, "error", err)
		case len(kept) == maxKept:
			log.Errorw("too many kept peers", "peer", info.ID, "limit", maxKept)
		default:
			kept = append(kept, info)
		}
	}
	return kept, nil
}

func parseRecord(entry store.Entry) (peer.AddrInfo, error) {
	id, err := peer.Decode(strings.TrimPrefix(entry.Key, keepPrefix+"/"))
	if err != nil {
		return peer.AddrInfo{}, err
	}
	var r record
	if err := json.Unmarshal(entry.Value, &r); err != nil {
		return peer.AddrInfo{}, err
	}
	var addrs []ma.Multiaddr
	for _, text := range r.Addrs {
		addr, err := ma.NewMultiaddr(text)
		if err != nil {
			return peer.AddrInfo{}, err
		}
		addrs = append(addrs, addr)
	}
	return peer.AddrInfo{ID: id, Addrs: mergeAddrs(addrs, nil)}, nil
}
