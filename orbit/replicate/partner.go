package replicate

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/heads"
)

// partner is a peer that has, or had, the database open.
type partner struct {
	subscribed bool
	busy       bool          // an exchange with it runs
	next       time.Time     // of an exchange; zero for none
	pause      time.Duration // before the one after that
	failures   int           // in a row
	last       time.Time     // when heads were exchanged
	inStep     time.Time     // when it had the same heads as we
	err        error         // of the last exchange
	heads      int           // that it had
	blame      int           // entries of no worth that it published since blamed
	blamed     time.Time
}

// blame counts that a peer published an entry of no worth.
func (rp *replica) blame(p peer.ID) {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	q := rp.partner(p)
	if time.Since(q.blamed) > blameFor {
		q.blame, q.blamed = 0, time.Now()
	}
	q.blame++
}

// isIgnored reports whether what a peer publishes is ignored for a while: it
// published too much of no worth. Its heads are taken all the same.
func (rp *replica) isIgnored(p peer.ID) bool {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	q := rp.peers[p]
	return q != nil && q.blame >= maxBlame && time.Since(q.blamed) <= blameFor
}

// partner returns a peer, which is remembered from now on. The caller holds
// rp.mu.
func (rp *replica) partner(p peer.ID) *partner {
	q := rp.peers[p]
	if q == nil {
		q = &partner{pause: idleMin}
		rp.forgetPartners()
		rp.peers[p] = q
	}
	return q
}

// subscription notes that a peer opened the database, or closed it.
func (rp *replica) subscription(p peer.ID, on bool) {
	rp.mu.Lock()
	if rp.peers[p] == nil && !on {
		rp.mu.Unlock()
		return
	}
	q := rp.partner(p)
	told := q.subscribed != on
	q.subscribed, q.failures, q.pause = on, 0, idleMin
	q.next = time.Time{}
	if on {
		q.next = time.Now()
	}
	if told {
		kind := Left
		if on {
			kind = Met
		}
		rp.tell(Event{Kind: kind, Peer: p})
	}
	rp.notify()
	rp.mu.Unlock()
	if on {
		signal(rp.due)
		signal(rp.pulling) // it may have what is missing
	}
}

// forgetPartners makes room for one more partner. Who has the database open
// is not forgotten. The caller holds rp.mu.
func (rp *replica) forgetPartners() {
	if len(rp.peers) < maxPartners {
		return
	}
	var oldest peer.ID
	for id, q := range rp.peers {
		if old := rp.peers[oldest]; !q.busy && !q.subscribed && (old == nil || q.last.Before(old.last)) {
			oldest = id
		}
	}
	delete(rp.peers, oldest)
}

// exchangeAlways begins the exchanges that are due.
func (rp *replica) exchangeAlways() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-rp.due:
		case <-rp.ctx.Done():
			return
		}
		now, next := time.Now(), time.Now().Add(time.Hour)
		rp.mu.Lock()
		var due []peer.ID
		for id, q := range rp.peers {
			switch {
			case q.busy || q.next.IsZero():
			case q.next.After(now):
				next = earlier(next, q.next)
			default:
				q.busy = true
				due = append(due, id)
			}
		}
		rp.mu.Unlock()
		for _, p := range due {
			rp.tasks.Go(func() {
				rp.exchange(rp.ctx, p)
				signal(rp.due)
			})
		}
		timer.Reset(time.Until(next))
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// exchange shows a peer our heads and takes its own. The partner is busy.
func (rp *replica) exchange(ctx context.Context, p peer.ID) {
	if rp.r.cfg.Host.Network().Connectedness(p) != network.Connected {
		rp.ended(p, nil, errNotConnected)
		return
	}
	if err := rp.r.exchanges.Acquire(ctx, 1); err != nil {
		rp.ended(p, nil, err)
		return
	}
	ours, err := rp.heads(ctx)
	var theirs []block.Block
	var sent heads.Sent
	if err == nil {
		theirs, sent, err = heads.Exchange(ctx, rp.r.cfg.Host, p, rp.address, ours)
	}
	rp.r.exchanges.Release(1)
	rp.received(ctx, p, theirs, sent, err)
}

var errNotConnected = errors.New("not connected")

// served answers a stream that a peer began.
func (rp *replica) served(s network.Stream) {
	p := s.Conn().RemotePeer()
	var ours []block.Block
	var err error
	if rp.database() != nil {
		ours, err = rp.heads(rp.ctx)
	}
	if err != nil {
		s.Reset()
		return
	}
	rp.mu.Lock()
	rp.partner(p)
	rp.mu.Unlock()
	theirs, sent, err := heads.Serve(s, ours)
	if rp.database() == nil {
		return
	}
	rp.received(rp.ctx, p, theirs, sent, err)
}

// heads returns the blocks of our heads, newest first.
func (rp *replica) heads(ctx context.Context) ([]block.Block, error) {
	l := rp.database().Log()
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

// received takes the heads of a peer, which may have come before an error.
func (rp *replica) received(ctx context.Context, p peer.ID, theirs []block.Block, sent heads.Sent, err error) {
	if len(theirs) > 0 {
		if _, joinErr := rp.join(ctx, []peer.ID{p}, theirs...); joinErr != nil && err == nil {
			err = joinErr
		}
	}
	for _, b := range sent.TooLarge {
		rp.r.heard.Add(b.Hash, time.Now())
		rp.announce(b)
	}
	rp.ended(p, theirs, err)
}

// ended notes the end of an exchange and when the next one is due.
func (rp *replica) ended(p peer.ID, theirs []block.Block, err error) {
	same := false
	if err == nil {
		same = rp.sameHeads(theirs)
	}
	now := time.Now()
	rp.mu.Lock()
	defer rp.mu.Unlock()
	q := rp.peers[p]
	if q == nil {
		return
	}
	q.busy, q.err = false, err
	defer rp.notify()
	switch {
	case errors.Is(err, errNotConnected):
		if q.subscribed {
			q.subscribed = false
			rp.tell(Event{Kind: Left, Peer: p})
		}
		q.next = time.Time{}
		return
	case err != nil:
		// A peer that opens a database subscribes just before it answers.
		q.pause = min(failMin<<min(q.failures, 20), idleMax)
		q.failures++
	default:
		q.failures, q.last, q.heads = 0, now, len(theirs)
		if same {
			if q.inStep.IsZero() || now.Sub(q.inStep) > time.Second {
				rp.tell(Event{Kind: InStep, Peer: p})
			}
			q.inStep = now
			q.pause = min(max(2*q.pause, idleMin), idleMax)
		} else {
			q.pause = confirmAfter
		}
	}
	if q.subscribed {
		q.next = now.Add(jitter(q.pause))
	}
}

// sameHeads reports whether a peer's heads are ours.
func (rp *replica) sameHeads(theirs []block.Block) bool {
	ours, err := rp.database().Log().Heads(rp.ctx)
	if err != nil || len(ours) != len(theirs) {
		return false
	}
	for _, h := range ours {
		if !slices.ContainsFunc(theirs, func(b block.Block) bool { return b.Hash == h.Hash }) {
			return false
		}
	}
	return true
}

// hurry has exchanges take place soon, to see whether what changed arrived.
func (rp *replica) hurry() {
	soon := time.Now().Add(jitter(confirmAfter))
	rp.mu.Lock()
	for _, q := range rp.peers {
		if !q.next.IsZero() && q.next.After(soon) {
			q.next = soon
		}
	}
	rp.mu.Unlock()
	signal(rp.due)
}

// ask has exchanges take place now.
func (rp *replica) ask() {
	rp.mu.Lock()
	for _, q := range rp.peers {
		if q.subscribed {
			q.next = time.Now()
		}
	}
	rp.mu.Unlock()
	signal(rp.due)
	signal(rp.pulling)
}

// refreshAccess makes the list of writers as new as that of peers who may know
// better, or of a few subscribers.
func (rp *replica) refreshAccess(ctx context.Context, from []peer.ID) {
	access := rp.r.find(rp.database().Access().Address())
	if access == nil || access.database() == nil {
		return
	}
	for _, p := range from[:min(len(from), maxRefreshed)] {
		access.refresh(ctx, p)
	}
}

// refresh exchanges heads with a peer, unless that was done a moment ago, and
// waits until what it has is here.
func (rp *replica) refresh(ctx context.Context, p peer.ID) {
	rp.mu.Lock()
	q := rp.partner(p)
	fresh := q.busy || time.Since(q.last) < refreshAfter
	if !fresh {
		q.busy = true
	}
	rp.mu.Unlock()
	if !fresh {
		rp.exchange(ctx, p)
	}
	ctx, cancel := context.WithTimeout(ctx, settleWithin)
	defer cancel()
	l := rp.database().Log()
	for {
		changed := l.Changed()
		rp.mu.Lock()
		busy, status := q.busy, rp.changed
		rp.mu.Unlock()
		if s, err := l.Stats(ctx); err != nil || s.Waiting == 0 && !busy {
			return
		}
		select {
		case <-changed:
		case <-status:
		case <-ctx.Done():
			return
		}
	}
}

// isFault reports whether an entry is refused which can be part of the graph.
func isFault(err error) bool {
	return errors.Is(err, entry.ErrFault) || errors.Is(err, orbit.ErrNotAllowed)
}
