package replicate

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/internal/admission"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/heads"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
)

// exchangeAlways runs the exchanges that are due, until the replica is
// cancelled.
func (rp *replica) exchangeAlways() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-rp.peers.due:
		case <-rp.ctx.Done():
			return
		}
		due, next := rp.peers.start()
		for _, p := range due {
			rp.tasks.Go(func() {
				rp.exchange(rp.ctx, p)
				rp.peers.due.Set()
			})
		}
		timer.Reset(time.Until(next))
	}
}

var errNotConnected = errors.New("not connected")

// exchange runs an exchange with a peer that was begun in the peer table.
func (rp *replica) exchange(ctx context.Context, p peer.ID) {
	err := rp.r.exchanges.Acquire(ctx, p, 1)
	if err == nil {
		err = rp.swap(ctx, p, rp.r.exchanges, func(ours heads.Side) ([]block.Block, error) {
			if !rp.connected(p) {
				return nil, errNotConnected
			}
			return heads.Exchange(ctx, rp.r.cfg.Host, p, rp.address, ours)
		})
	}
	rp.peers.finish(p, err)
}

// serve answers a stream that a peer began, which has a slot of rp.r.served.
func (rp *replica) serve(s network.Stream) {
	p := s.Conn().RemotePeer()
	rp.peers.remember(p)
	err := rp.swap(rp.ctx, p, rp.r.served, func(ours heads.Side) ([]block.Block, error) { return heads.Serve(s, ours) })
	if err != nil {
		s.Reset()
		log.Debugw("serve exchange", "peer", p, "address", rp.address, "err", err)
	}
}

// swap exchanges heads with a peer by a function, joins the heads of the peer,
// and updates the state of the peer. It releases one slot of the quota as soon
// as it has the heads.
func (rp *replica) swap(ctx context.Context, p peer.ID, slots *admission.Quota, exchange func(heads.Side) ([]block.Block, error)) error {
	var once sync.Once
	release := func() { once.Do(func() { slots.Release(p, 1) }) }
	defer release()
	charged := &budgetReader{budget: rp.r.budget, peer: p}
	defer charged.release()
	ours, err := rp.side(ctx, p, charged)
	if err != nil {
		return err
	}
	theirs, err := exchange(ours)
	release()
	if rp.database() == nil && rp.accepts() {
		if err := rp.obtainFrom(ctx, p); err != nil {
			log.Debugw("obtain", "address", rp.address, "peer", p, "err", err)
		}
	}
	if rp.database() == nil {
		return err
	}
	rp.announceLarge(p, ours)
	shown := make([]string, len(theirs))
	for i, b := range theirs {
		shown[i] = b.Hash
	}
	transfers := rp.claimTransfer(p)
	if len(theirs) > 0 && rp.accepts() {
		if _, joinErr := rp.join(ctx, []peer.ID{p}, orbit.NewCandidates(theirs...)); err == nil {
			err = joinErr
		}
	}
	theirs, ours.Heads = nil, nil
	charged.release()
	var a agreement
	if !rp.lacks(ctx, shown) {
		var compareErr error
		if a, compareErr = rp.compare(ctx, p, shown); compareErr != nil {
			log.Debugw("compare", "address", rp.address, "peer", p, "err", compareErr)
		}
	}
	if transfers {
		if rp.reconcile(ctx, p, shown, a.by == ByState && !a.agrees) {
			a, _ = rp.compare(ctx, p, shown)
		}
	}
	if err == nil {
		rp.peers.exchanged(p, shown, a, rp.inSync(a), slots == rp.r.exchanges)
	}
	return err
}

// side returns the heads that a peer is sent, and how its own are read.
func (rp *replica) side(ctx context.Context, p peer.ID, charged *budgetReader) (heads.Side, error) {
	ours := heads.Side{MaxSend: heads.MaxSend, Reading: func(from io.Reader) io.Reader {
		charged.from = from
		return charged
	}}
	if rp.r.cfg.LargeHeads != nil && rp.r.cfg.LargeHeads(p) {
		ours.MaxSend = block.MaxSize
	}
	if rp.database() == nil {
		return ours, nil
	}
	var err error
	ours.Heads, err = rp.heads(ctx)
	return ours, err
}

// heads returns the blocks of the heads, newest first, maxHeads at most.
func (rp *replica) heads(ctx context.Context) ([]block.Block, error) {
	l := oplog.Of(rp.database())
	positions, err := l.Heads(ctx)
	if err != nil {
		return nil, err
	}
	bs := make([]block.Block, 0, len(positions))
	for _, h := range positions[:min(len(positions), maxHeads)] {
		e, err := l.Get(ctx, h.Hash)
		if err != nil {
			return nil, err
		}
		bs = append(bs, e.Block)
	}
	return bs, nil
}

// lacks reports whether one of the entries is not part of the log.
func (rp *replica) lacks(ctx context.Context, hashes []string) bool {
	l := oplog.Of(rp.database())
	for _, hash := range hashes {
		if ok, err := l.Has(ctx, hash); err != nil || !ok {
			return err == nil
		}
	}
	return false
}

// announceLarge publishes the heads that are too large for the stream of a
// subscriber, maxLarge at most, and rarely.
func (rp *replica) announceLarge(p peer.ID, ours heads.Side) {
	large := slices.DeleteFunc(slices.Clone(ours.Heads), func(b block.Block) bool { return len(b.Data) <= ours.MaxSend })
	if len(large) == 0 || !rp.peers.announcesLarge(p) {
		return
	}
	for _, b := range large[:min(len(large), maxLarge)] {
		rp.r.see(rp.address, b.Hash)
		rp.announce(b)
	}
}
