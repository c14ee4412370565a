package replicate

import (
	"context"
	"time"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
)

// announceChanges publishes what is new in the log: local entries at once,
// unless there are more than maxLive, and other heads after announceAfter,
// unless the topic has them by then.
func (rp *replica) announceChanges(l *oplog.Log) {
	last, revision := rp.first, uint64(0)
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
			rp.announceDue.Set()
			rp.settle(now.Heads)
			rp.peers.logChanged()
		}
		select {
		case <-changed:
		case <-rp.announceDue:
			if heads == nil {
				heads = time.After(rp.r.random.around(announceAfter))
			}
		case <-heads:
			heads = nil
			rp.announceHeads()
		case <-rp.ctx.Done():
			return
		}
	}
}

// announceOwn publishes the local entries after a number.
func (rp *replica) announceOwn(l *oplog.Log, after uint64) {
	if len(rp.subscribers()) == 0 {
		return
	}
	for a, err := range l.Arrived(rp.ctx, after) {
		if err != nil {
			return // the heads are announced all the same
		}
		if a.Entry.Key == rp.r.cfg.Orbit.Identity().PublicKey && rp.r.see(rp.address, a.Hash) {
			rp.announce(a.Entry.Block)
		}
	}
}

// announceHeads publishes the newest heads that the topic did not have for
// seenFor.
func (rp *replica) announceHeads() {
	if len(rp.subscribers()) == 0 {
		return
	}
	heads, err := rp.heads(rp.ctx)
	if err != nil {
		return
	}
	for _, h := range heads[:min(len(heads), maxAnnounced)] {
		if rp.r.see(rp.address, h.Hash) {
			rp.announce(h)
		}
	}
}

func (rp *replica) announce(b block.Block) {
	if rp.r.cfg.Router == nil {
		return
	}
	ctx, cancel := context.WithTimeout(rp.ctx, forwardWithin)
	defer cancel()
	if err := rp.r.cfg.Router.Announce(ctx, rp.address, b.Data); err != nil {
		log.Debugw("announce", "address", rp.address, "hash", b.Hash, "err", err)
	}
}
