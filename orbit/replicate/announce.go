package replicate

import (
	"context"
	"time"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
)

// announceChanges publishes what is new in the log: entries of our own at once,
// unless there are very many, and heads that came otherwise a moment later,
// unless somebody else publishes them.
func (rp *replica) announceChanges(l *oplog.Log) {
	last, revision := rp.began, uint64(0)
	var heads <-chan time.Time
	for {
		changed := l.Changed()
		now, err := l.Stats(rp.ctx)
		if rp.ctx.Err() != nil {
			return
		}
		if err != nil {
			log.Errorw("announce", "address", rp.address, "err", err)
		} else if now.Last != last || now.Revision != revision {
			if now.Last > last && now.Last-last <= maxLive {
				rp.announceOwn(l, last)
			}
			last, revision = now.Last, now.Revision
			signal(rp.unheard)
			rp.settle(now.Heads)
			rp.hurry()
		}
		select {
		case <-changed:
		case <-rp.unheard:
			if heads == nil {
				heads = time.After(rp.r.random.around(headsAfter))
			}
		case <-heads:
			heads = nil
			rp.announceHeads()
		case <-rp.ctx.Done():
			return
		}
	}
}

// announceOwn publishes the entries of our own behind a number.
func (rp *replica) announceOwn(l *oplog.Log, after uint64) {
	if len(rp.subscribers()) == 0 {
		return
	}
	for a, err := range l.Arrived(rp.ctx, after) {
		if err != nil {
			return // the heads are announced all the same
		}
		if a.Entry.Key == rp.r.cfg.Orbit.Identity().PublicKey && rp.r.once(rp.address, a.Hash) {
			rp.announce(a.Entry.Block)
		}
	}
}

// announceHeads publishes the newest heads that nobody published for a while.
func (rp *replica) announceHeads() {
	if len(rp.subscribers()) == 0 {
		return
	}
	heads, err := rp.heads(rp.ctx)
	if err != nil {
		return
	}
	for _, h := range heads[:min(len(heads), maxAnnounced)] {
		if rp.r.once(rp.address, h.Hash) {
			rp.announce(h)
		}
	}
}

func (rp *replica) announce(b block.Block) {
	if rp.r.cfg.Router == nil {
		return
	}
	ctx, cancel := context.WithTimeout(rp.ctx, passOnWithin)
	defer cancel()
	if err := rp.r.cfg.Router.Announce(ctx, rp.address, b.Data); err != nil {
		log.Debugw("announce", "address", rp.address, "hash", b.Hash, "err", err)
	}
}

// followAccess offers what was refused again when the access list changes, has what
// other admins overwrote be restored, and compares the replicas of peers with ours
// again when their access databases agree.
func (rp *replica) followAccess(inner *orbit.Database) {
	if access := rp.r.find(inner.Address()); access != nil {
		defer access.guard(rp)()
	}
	l := oplog.Of(inner)
	last := uint64(0)
	var repair <-chan time.Time
	for {
		changed := l.Changed()
		if s, err := l.Stats(rp.ctx); err == nil && s.Last != last {
			last = s.Last
			rp.reofferDisputed()
			repair = time.After(rp.r.random.around(repairAfter))
		}
		if ours, err := oplog.Of(rp.database()).Heads(rp.ctx); err == nil {
			rp.settle(ours)
		}
		select {
		case <-changed:
		case <-rp.accessAgrees:
		case <-repair:
			repair = nil
			if _, err := rp.database().Access().Repair(rp.ctx); err != nil {
				rp.storeError(err)
			}
		case <-rp.ctx.Done():
			return
		}
	}
}

// guard has a replica be told when this one, its access database, agrees with that
// of a peer, until stop is called.
func (rp *replica) guard(guarded *replica) (stop func()) {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	rp.guarded[guarded] = true
	return func() {
		rp.mu.Lock()
		defer rp.mu.Unlock()
		delete(rp.guarded, guarded)
	}
}

func (rp *replica) reofferDisputed() {
	signal(rp.pulling) // what was fetched and refused is missing still
	rp.mu.Lock()
	bs := rp.disputed
	rp.mu.Unlock()
	if len(bs) == 0 || !rp.accepts() {
		return
	}
	rp.mu.Lock()
	rp.disputed = nil
	rp.mu.Unlock()
	rp.join(rp.ctx, nil, bs...) // whose error is logged
}
